# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Remote do
  # A scheduler on another node. A request goes by the link to that node, and so do the large inputs of a
  # stream; everything else, and what has no link, by :erpc: the façade is called there, so the payload
  # crosses once, the work over there is done by a process of its own, and the calling process is the
  # owner.
  @moduledoc false

  alias GpuSched.{Async, Encode, Error, Link, Local, Msgpack, Options, Owner, Telemetry, Tensor}

  @spec call(node, atom, list, timeout) :: term
  def call(node, function, args, timeout) do
    :erpc.call(node, GpuSched, function, args, timeout)
  rescue
    e in ErlangError -> {:error, from_erpc(e.original, node, timeout)}
  end

  @spec cast(node, atom, list) :: :ok
  def cast(node, function, args), do: :erpc.cast(node, GpuSched, function, args)

  @spec infer(node, GenServer.server(), term, term, Options.t()) ::
          {:ok, map} | {:error, Error.t()}
  def infer(node, name, model, inputs, opts) do
    if Telemetry.available?() do
      server = if is_pid(name), do: name, else: {name, node}
      Telemetry.infer(server, model, fn -> run(node, name, model, inputs, opts) end)
    else
      run(node, name, model, inputs, opts)
    end
  end

  defp run(node, name, model, inputs, opts) do
    if Owner.current() == self(),
      do: ask(node, name, model, inputs, opts),
      else: pass_on(node, name, model, inputs, opts)
  end

  defp ask(node, name, model, inputs, opts) do
    deadline = Local.deadline(opts.timeout)

    case Link.begin(node, name, model, inputs, opts, deadline) do
      {:ok, request} -> Link.await(request)
      {:error, error} -> {:error, error}
      :none -> ask_alone(node, name, model, inputs, opts, deadline)
    end
  end

  defp ask_alone(node, name, model, inputs, opts, deadline) do
    left = Local.remaining(deadline)

    with {:ok, args} <- infer_args(name, model, inputs, %{opts | timeout: left}),
         {:ok, result} <- call(node, :infer, args, left),
         do: Tensor.outputs(result, opts.output)
  end

  # For a process of yet another node: should that die, this one is not told, and the owner over there
  # would be this one. So there is a process that watches both.
  defp pass_on(node, name, model, inputs, opts) do
    server = if is_pid(name), do: name, else: {name, node}
    server |> Async.start(model, inputs, opts) |> Async.await(:infinity)
  end

  # The arguments for the other node: Nx tensors are converted here, on both ways, because only here
  # it is known that there is Nx.
  @spec infer_args(GenServer.server(), term, term, Options.t()) ::
          {:ok, list} | {:error, Error.t()}
  def infer_args(name, model, inputs, opts) do
    with {:ok, inputs} <- plain(inputs),
         do: {:ok, [name, model, inputs, Options.to_list(%{opts | output: :binary})]}
  end

  defp plain(inputs) when is_map(inputs) and not is_struct(inputs) do
    {:ok, Map.new(inputs, fn {name, value} -> {name, Tensor.plain(value, [name, "inputs"])} end)}
  catch
    {Msgpack, path, what} -> {:error, Encode.refused(path, what)}
  end

  defp plain(inputs), do: {:ok, inputs}

  @spec stream_to(node, GenServer.server(), term, term, pid, Options.t()) ::
          {:ok, reference} | {:error, Error.t()}
  def stream_to(node, name, model, inputs, pid, opts) do
    with :none <- Link.begin_stream(node, name, model, inputs, {pid, nil}, opts),
         {:ok, [name, model, inputs, options]} <- stream_args(name, model, inputs, opts),
         do: call(node, :stream_to, [name, model, inputs, pid, options], opts.timeout)
  end

  # As infer_args/4.
  @spec stream_args(GenServer.server(), term, term, Options.t()) ::
          {:ok, list} | {:error, Error.t()}
  def stream_args(name, model, inputs, opts) do
    with {:ok, inputs} <- plain(inputs),
         do: {:ok, [name, model, inputs, Options.to_list(opts, [:credit])]}
  end

  # As stream_to/6, the messages going to an alias. Called on the scheduler's node by this module on
  # the other.
  @doc false
  def serve_stream(name, model, inputs, pid, alias_ref, opts) do
    case GpuSched.Resolve.server(name) do
      {:local, ctx} ->
        Local.stream_to(ctx, model, inputs, pid, Options.stream_to!(opts), alias_ref)

      {:remote, _node, _name} ->
        {:error, Error.exception(reason: :unavailable)}

      {:error, error} ->
        {:error, error}
    end
  end

  @spec open_stream(node, GenServer.server(), term, term, reference, Options.t()) ::
          {:ok, reference} | {:error, Error.t()}
  def open_stream(node, name, model, inputs, alias_ref, opts) do
    opts = %{opts | output: :binary}

    with :none <- Link.begin_stream(node, name, model, inputs, {self(), alias_ref}, opts),
         {:ok, [name, model, inputs, options]} <- stream_args(name, model, inputs, opts) do
      try do
        args = [name, model, inputs, self(), alias_ref, options]
        :erpc.call(node, __MODULE__, :serve_stream, args, opts.timeout)
      rescue
        e in ErlangError -> {:error, from_erpc(e.original, node, opts.timeout)}
      end
    end
  end

  # What :erpc raises, as an error of ours. An exception over there is a mistake in the program, or
  # the lack of this library, and is told as it was.
  @spec from_erpc(term, node, timeout) :: Error.t()
  def from_erpc({:erpc, :timeout}, _node, timeout), do: Local.timed_out(timeout)

  def from_erpc({:erpc, :noconnection}, node, _timeout) do
    Error.exception(
      reason: :unavailable,
      message: "the node #{node} cannot be reached, or the connection to it was lost"
    )
  end

  def from_erpc({:exception, :undef, [{GpuSched, function, _, _} | _]}, node, _timeout) do
    Error.exception(
      reason: :not_supported,
      message: "#{node} does not have this library (GpuSched.#{function} is undefined there)"
    )
  end

  def from_erpc({:exception, reason, stack}, node, _timeout) do
    Error.exception(
      reason: :unknown,
      message: "on #{node}: " <> Exception.format(:error, reason, Enum.take(stack, 3))
    )
  end

  def from_erpc(other, node, _timeout) do
    Error.exception(reason: :unavailable, message: "on #{node}: #{inspect(other, limit: 8)}")
  end
end
