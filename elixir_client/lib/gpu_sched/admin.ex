# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Admin do
  # Everything of the façade that is not a request to a model.
  @moduledoc false

  alias GpuSched.{Local, Models, Msgpack, Options, Owner, Remote, Resolve, Server}

  def call(server, function, args, opts) do
    opts = Options.admin!(function, opts)
    # Here, so that a mistake raises in the program that made it.
    if function == :load, do: Models.params!(hd(args), Keyword.delete(opts, :timeout))

    case Resolve.server(server) do
      {:local, ctx} ->
        run(function, ctx, args, opts)

      {:remote, node, name} ->
        Remote.call(node, function, [name | args] ++ [opts], opts[:timeout])

      {:error, error} ->
        {:error, error}
    end
  end

  defp run(:load, ctx, [name], opts) do
    {timeout, opts} = Keyword.pop!(opts, :timeout)
    params = Models.params!(name, opts)
    request(ctx, "load", [params], {:load, name, params}, Local.deadline(timeout))
  end

  defp run(:unload, ctx, [name], opts) do
    params = name_map(name)
    deadline = Local.deadline(opts[:timeout])
    with {:ok, _} <- request(ctx, "unload", [params], {:unload, name}, deadline), do: :ok
  end

  defp run(:await_ready, ctx, [:all], opts) do
    deadline = Local.deadline(opts[:timeout])

    with {:ok, models} <- request(ctx, "models", [], :patient, deadline) do
      collect(models, [], fn model -> wait_ready(ctx, model["name"], deadline) end)
    end
  end

  defp run(:await_ready, ctx, [name], opts),
    do: wait_ready(ctx, name, Local.deadline(opts[:timeout]))

  defp run(:clients, ctx, [], opts) do
    {:ok, GenServer.call(ctx.server, :clients, opts[:timeout])}
  catch
    :exit, _reason ->
      {:error,
       GpuSched.Error.exception(reason: :unavailable, message: "the scheduler did not answer")}
  end

  # Whoever is refused for want of credit does not get as far as the port, which counts the rest.
  defp run(:stats, ctx, [], opts) do
    with {:ok, stats} <- request(ctx, "stats", [], :plain, Local.deadline(opts[:timeout])),
         do: {:ok, Map.put(stats, "refused_for_credit", GpuSched.Admission.refused(ctx.counters))}
  end

  defp run(function, ctx, [], opts) when function in [:models, :devices, :histograms] do
    request(ctx, Atom.to_string(function), [], :plain, Local.deadline(opts[:timeout]))
  end

  defp collect([], acc, _fun), do: {:ok, Enum.reverse(acc)}

  defp collect([x | rest], acc, fun) do
    with {:ok, y} <- fun.(x), do: collect(rest, [y | acc], fun)
  end

  # The port waits as long as we do, so that its error comes, which says more. It is asked to give up
  # a little earlier for that.
  defp wait_ready(ctx, name, deadline) do
    entries = [Msgpack.str("name"), Msgpack.str(name)]

    params =
      case deadline do
        :infinity ->
          [Msgpack.map_header(1) | entries]

        deadline ->
          time = GpuSched.Admission.port_time(ctx.counters, deadline - 20_000_000)
          [Msgpack.map_header(2), Msgpack.str("deadline"), Msgpack.int(time) | entries]
      end

    request(ctx, "wait_ready", [params], :patient, deadline)
  end

  defp name_map(name), do: [Msgpack.map_header(1), Msgpack.str("name"), Msgpack.str(name)]

  defp request(ctx, method, params, kind, deadline),
    do: Server.call(ctx, method, length(params), params, kind, Owner.current(), deadline)
end
