# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Jobs do
  # Jobs, as the façade offers them: submitting, waiting, asking, cancelling, reserving.
  #
  # A job is named by an id that says which node it is on, so that every function but those that make
  # one takes nothing else; on another node it is called there.
  @moduledoc false

  alias GpuSched.{Directory, Encode, Error, Local, Msgpack, Owner, Remote, Resolve, Server}
  alias GpuSched.Jobs.{Bar, Id, Options, Table}

  @call_ms 5_000

  # ---- submitting

  @spec submit(GenServer.server(), String.t() | atom, keyword) ::
          {:ok, Id.t()} | {:error, Error.t()}
  def submit(server, program, opts) do
    with {:ok, name} <- program(program),
         {:ok, options} <- Options.submit(name, opts) do
      case Resolve.server(server) do
        {:local, ctx} -> make(ctx, "submit", options)
        {:remote, node, server} -> remote_submit(node, server, program, opts, options)
        {:error, error} -> {:error, error}
      end
    end
  end

  # The caller is the owner over there as well, as :erpc is asked from its process.
  defp remote_submit(node, server, program, opts, options),
    do: Remote.call(node, :submit, [server, program, opts], options.timeout)

  defp program(name) when is_binary(name), do: {:ok, name}
  defp program(name) when is_atom(name) and name != nil, do: {:ok, Atom.to_string(name)}

  defp program(other) do
    {:error,
     Error.exception(
       reason: :invalid_argument,
       message:
         "#{Msgpack.kind(other)} where the name of a program belongs: a program takes parameters, " <>
           "and no tensors"
     )}
  end

  defp make(ctx, method, options) do
    owner = Owner.current()
    params = [Options.params(options, ctx.client || Encode.share(node(owner)))]
    kind = {:submit, options.link}
    # A reservation is waited for with its own timeout; this answers at once.
    timeout = if options.timeout == :infinity, do: @call_ms, else: max(options.timeout, 1)

    Server.call(ctx, method, 1, params, kind, owner, Local.deadline(timeout))
  end

  # ---- asking

  @spec await(Id.t(), keyword) :: {:ok, map} | {:error, Error.t()}
  def await(id, opts) do
    GpuSched.Options.await!(opts)

    if opts[:progress] == true do
      watch(id, Keyword.take(opts, [:timeout]))
    else
      timeout = Keyword.get(opts, :timeout, :infinity)
      at(id, :await, [timeout], timeout, &await_local(&1, &2, timeout))
    end
  end

  defp await_local(ctx, number, timeout) do
    case Table.fetch(ctx.jobs, number) do
      {:ok, :ended, row} ->
        Table.outcome(row)

      {:ok, :live, _row} ->
        with {:ended, row} <-
               Table.await(ctx.jobs, number, :ended, Local.deadline(timeout), timeout),
             do: Table.outcome(row)

      {:error, error} ->
        {:error, error}
    end
  end

  @spec watch(Id.t(), keyword) :: {:ok, map} | {:error, Error.t()}
  def watch(id, opts) do
    GpuSched.Options.await!(opts)
    timeout = Keyword.get(opts, :timeout, :infinity)
    at(id, :watch, [opts], timeout, &Bar.run(&1, &2, timeout))
  end

  @spec subscribe(Id.t(), pid | nil) :: :ok | {:error, Error.t()}
  def subscribe(id, pid) do
    pid = pid || Owner.current()
    at(id, :subscribe, [pid], @call_ms, &Table.subscribe(&1.jobs, &2, pid, :plain))
  end

  @spec unsubscribe(Id.t(), pid | nil) :: :ok | {:error, Error.t()}
  def unsubscribe(id, pid) do
    pid = pid || Owner.current()
    at(id, :unsubscribe, [pid], @call_ms, &Table.unsubscribe(&1.jobs, &2, pid))
  end

  @spec cancel(Id.t()) :: :ok | {:error, Error.t()}
  def cancel(id), do: at(id, :cancel, [], @call_ms, &tell(&1, &2, "cancel_job"))

  @spec release(Id.t()) :: :ok | {:error, Error.t()}
  def release(id), do: at(id, :release, [], @call_ms, &tell(&1, &2, "release"))

  # One that has ended need not be told.
  defp tell(ctx, number, method) do
    with {:ok, :live, _row} <- Table.fetch(ctx.jobs, number),
         {:ok, nil} <- ask(ctx, method, number, @call_ms) do
      :ok
    else
      {:ok, :ended, _row} -> :ok
      {:error, %Error{reason: :not_found} = error} -> ended_meanwhile(ctx, number, error)
      {:error, error} -> {:error, error}
    end
  end

  defp ended_meanwhile(ctx, number, error) do
    case Table.fetch(ctx.jobs, number) do
      {:ok, _state, _row} -> :ok
      _ -> {:error, error}
    end
  end

  @spec job(Id.t(), keyword) :: {:ok, map} | {:error, Error.t()}
  def job(id, opts) do
    timeout = GpuSched.Options.admin!(:job, opts)[:timeout]
    at(id, :job, [opts], timeout, &describe(&1, &2, timeout))
  end

  defp describe(ctx, number, timeout) do
    with {:ok, :live, row} <- Table.fetch(ctx.jobs, number) do
      case ask(ctx, "job", number, timeout) do
        {:ok, job} -> {:ok, Map.put(job, "job", row["job"])}
        # Its end is under way to us.
        {:error, %Error{reason: :not_found}} -> {:ok, row}
        {:error, error} -> {:error, error}
      end
    else
      {:ok, :ended, row} -> {:ok, row}
      {:error, error} -> {:error, error}
    end
  end

  @spec list(GenServer.server(), keyword) :: {:ok, [map]} | {:error, Error.t()}
  def list(server, opts) do
    %{ended: ended?, timeout: timeout} = Map.new(GpuSched.Options.jobs!(opts))

    case Resolve.server(server) do
      {:local, ctx} -> list_local(ctx, ended?, timeout)
      {:remote, node, name} -> Remote.call(node, :jobs, [name, opts], timeout)
      {:error, error} -> {:error, error}
    end
  end

  defp list_local(ctx, ended?, timeout) do
    with {:ok, jobs} <- request(ctx, "jobs", [], timeout) do
      live = for job <- jobs, do: Map.update!(job, "job", &Id.format(ctx.jobs.label, &1))

      {:ok, if(ended?, do: Table.ended(ctx.jobs) ++ live, else: live)}
    end
  end

  # ---- reserving

  @spec reserve(GenServer.server(), keyword) :: {:ok, map} | {:error, Error.t()}
  def reserve(server, opts) do
    with {:ok, options} <- Options.reserve(opts) do
      case Resolve.server(server) do
        {:local, ctx} -> reserve_local(ctx, options)
        {:remote, node, name} -> Remote.call(node, :reserve, [name, opts], options.timeout)
        {:error, error} -> {:error, error}
      end
    end
  end

  defp reserve_local(ctx, options) do
    deadline = Local.deadline(options.timeout)

    with {:ok, id} <- make(ctx, "reserve", options),
         {:ok, _node, _label, number} <- Id.parse(id) do
      case Table.await(ctx.jobs, number, :running, deadline, options.timeout) do
        {:running, row} ->
          {:ok, Map.take(row, ["job", "devices"])}

        {:ended, row} ->
          with {:ok, _result} <- Table.outcome(row),
               do: {:error, Error.exception(reason: :cancelled, message: "it was given back")}

        {:error, error} ->
          cancel(id)
          {:error, error}
      end
    end
  end

  # ---- where a job is

  defp at(id, function, args, timeout, fun) do
    with {:ok, node, label, number} <- Id.parse(id) do
      if node == node(),
        do: here(id, label, number, fun),
        else: Remote.call(node, function, [id | args], slack(timeout))
    end
  end

  # What is over there says more when the time is up than the call can.
  defp slack(:infinity), do: :infinity
  defp slack(timeout), do: timeout + 1_000

  defp here(id, label, number, fun) do
    case Directory.by_label(label) do
      {:ok, ctx} ->
        fun.(ctx, number)

      :error ->
        {:error,
         Error.exception(
           reason: :unavailable,
           message: "the scheduler of the job #{id} is not running on #{node()}"
         )}
    end
  end

  defp ask(ctx, method, number, timeout) do
    params = [Msgpack.map_header(1), Msgpack.str("job"), Msgpack.int(number)]
    request(ctx, method, [params], timeout)
  end

  defp request(ctx, method, params, timeout) do
    deadline = Local.deadline(timeout)
    Server.call(ctx, method, length(params), params, :plain, Owner.current(), deadline)
  end
end
