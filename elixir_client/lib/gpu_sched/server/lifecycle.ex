# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Server.Lifecycle do
  # sched-port comes and goes: it is opened, greeted, watched, ended where it cannot be understood,
  # and restarted with growing pauses. What was in flight goes to the next one.
  @moduledoc false

  import GpuSched.Server.State, only: [entry: 1, entry: 2]

  require Logger

  alias GpuSched.{
    Admission,
    Directory,
    Error,
    Events,
    Executable,
    Msgpack,
    OsProcess,
    Protocol,
    Telemetry
  }

  alias GpuSched.Jobs.Table
  alias GpuSched.Server.{Credit, Flight, JobLink, Reupload, State, Transport}

  # How long a killed sched-port may take to be gone.
  @kill_ms 5_000
  # One that lived so long has its next restart begin with the shortest pause again.
  @stable_ms 10_000

  # The first message of the first frame is the hello; the frame is handled once that is known to be
  # acceptable.
  @spec await_hello(State.t(), String.t() | {module, term}, integer) ::
          {:ok, State.t(), binary} | {:error, Error.t()}
  def await_hello(%{port: port} = state, path, deadline) do
    receive do
      {^port, {:data, frame}} ->
        case Protocol.next(frame) do
          {:notification, "hello", params, _rest} ->
            case Protocol.hello(params, Admission.now()) do
              {:ok, _hello} -> {:ok, state, frame}
              {:error, what} -> refuse_hello(state, path, what)
            end

          _ ->
            refuse_hello(state, path, "the first thing it said was no hello")
        end

      {^port, {:exit_status, status}} ->
        {:error, Executable.start_failure(path, Executable.args(state.opts.port_options), status)}

      {:EXIT, ^port, reason} ->
        {:error, Executable.start_failure(path, [], "its port closed: #{inspect(reason)}")}

      {:EXIT, _parent, reason} ->
        exit(reason)
    after
      max(deadline - State.now_ms(), 0) ->
        refuse_hello(
          state,
          path,
          "it said nothing within start_timeout (#{state.opts.start_timeout} ms)"
        )
    end
  end

  defp refuse_hello(state, path, what) do
    OsProcess.kill(state.process)

    {:error,
     Error.exception(
       reason: :start_failed,
       message: "#{Executable.name(path)} cannot be used as sched-port: #{what}"
     )}
  end

  @spec open(State.t(), String.t() | {module, term}) :: {:ok, State.t()} | {:error, Error.t()}
  def open(state, path) do
    {port, process} = Transport.open(path, args(state), state.opts.port_env)
    Directory.port(process)
    {:ok, %{state | port: port, process: process, status: :starting, frame: 0}}
  rescue
    # The system refuses a new process.
    error in ErlangError ->
      message = "#{Executable.name(path)} was not started: #{Exception.message(error)}"
      {:error, Error.exception(reason: :start_failed, message: message)}
  end

  # Jobs are counted on where those of the one before ended.
  defp args(%{ctx: ctx, opts: opts}) do
    first = Table.next_number(ctx.jobs)
    Executable.args(opts.port_options ++ [first_job: first])
  end

  @spec close_port(State.t()) :: :ok
  def close_port(%{port: nil}), do: :ok

  def close_port(%{port: port}), do: Transport.close(port)

  @spec came_up(State.t(), Protocol.hello()) :: State.t()
  def came_up(state, hello) do
    Admission.set_limits(state.counters, hello)

    Telemetry.execute([:gpu_sched, :port, :up], %{count: 1}, %{
      server: self(),
      version: hello.version,
      os_pid: hello.pid
    })

    Events.tell(
      state.ctx.events,
      {:port, %{"state" => "up", "version" => hello.version, "os_pid" => hello.pid}}
    )

    state = %{state | hello: hello, status: :up, up_since: State.now_ms(), silent: 0}

    # Models first, so that what comes after them finds them; then what was in flight, oldest first.
    state =
      for {name, params} <- state.models, reduce: state do
        state -> own_call(state, "load", 1, params, {:reload, name})
      end

    state =
      for {id, entry(frame: -1) = e} <- Enum.sort(state.pending), reduce: state do
        state -> send_again(state, id, e)
      end

    Admission.set_state(state.counters, :up)
    Credit.grant_waiting(state)
  end

  defp send_again(state, id, entry(leased: nil) = e), do: Flight.send_entry(state, id, e)
  defp send_again(state, id, e), do: Reupload.upload_again(state, id, e)

  # A request of this process itself.
  @spec own_call(State.t(), String.t(), non_neg_integer, iodata, term) :: State.t()
  def own_call(state, method, n, params, kind) do
    id = Admission.next_id(state.counters)
    message = IO.iodata_to_binary(Protocol.request(id, method, n, params))
    Flight.send_entry(state, id, entry(kind: kind, message: message))
  end

  # It cannot be understood, or does not answer.
  @spec give_port_up(State.t(), String.t()) :: State.t()
  def give_port_up(%{status: :dying} = state, _why), do: state

  def give_port_up(state, why) do
    Logger.error("#{State.name(state)}: sched-port is ended: #{why}")
    Admission.set_state(state.counters, :down)
    %{process: process, port: port} = state
    spawn(fn -> OsProcess.kill(process) end)
    Process.send_after(self(), {:kill_timeout, port}, @kill_ms)
    %{state | status: :dying, out: [], out_bytes: 0}
  end

  @spec port_down(State.t(), String.t()) :: State.t()
  def port_down(state, why) do
    Admission.set_state(state.counters, :down)
    {min, max} = state.opts.restart_backoff

    stable? = state.up_since != nil and State.now_ms() - state.up_since > @stable_ms
    wait = if stable?, do: min, else: state.restart_ms
    Admission.set_retry_after(state.counters, wait)

    Logger.error(
      "#{State.name(state)}: sched-port ended: #{why}; #{map_size(state.pending)} requests were in " <>
        "flight; it is restarted in #{wait} ms"
    )

    Telemetry.execute(
      [:gpu_sched, :port, :down],
      %{count: 1, in_flight: map_size(state.pending)},
      %{server: self(), reason: why, restart_ms: wait}
    )

    Events.tell(
      state.ctx.events,
      {:port, %{"state" => "down", "reason" => why, "restart_ms" => wait}}
    )

    close_port(state)
    state = JobLink.lost(state, why)

    state = %{
      state
      | status: :down,
        port: nil,
        process: nil,
        up_since: nil,
        out: [],
        out_bytes: 0,
        restart_ms: min(wait * 2, max),
        restart_timer: Process.send_after(self(), :restart, wait)
    }

    for {id, e} <- state.pending, reduce: state do
      state -> survive(state, id, e)
    end
  end

  # What becomes of a request when the port dies under it.
  defp survive(state, id, entry(to: nil) = e),
    do: state |> Reupload.stop_uploader(id) |> Flight.forget(id, e)

  defp survive(state, id, entry(kind: :infer, frame: frame, state: s) = e) do
    state = Reupload.stop_uploader(state, id)

    case s do
      _ when frame < 0 -> state
      :fresh -> Flight.put(state, id, entry(e, frame: -1, state: :again))
      :again -> Flight.fail(state, id, e, died_twice())
      :parted -> Flight.fail(state, id, e, died_parted())
    end
  end

  defp survive(state, id, entry(kind: :patient) = e),
    do: Flight.put(state, id, entry(e, frame: -1))

  defp survive(state, id, e),
    do: Flight.fail(state, id, e, Admission.unavailable(:down, restart_in(state)))

  defp died_twice do
    Error.exception(
      reason: :unavailable,
      message:
        "sched-port ended while the request was in flight, and again when it had been sent a " <>
          "second time; it is not sent a third time"
    )
  end

  defp died_parted do
    Error.exception(
      reason: :unavailable,
      message:
        "sched-port ended when parts of the result had been delivered already; sent again, they " <>
          "would come a second time"
    )
  end

  @spec restart(State.t()) :: State.t()
  def restart(state) do
    with {:ok, path} <- Executable.find(state.opts.port_path),
         {:ok, state} <- open(state, path) do
      Process.send_after(self(), {:start_timeout, state.port}, state.opts.start_timeout)
      state
    else
      {:error, error} -> port_down(state, error.message)
    end
  end

  @spec restart_in(State.t()) :: non_neg_integer
  def restart_in(%{restart_timer: nil}), do: 100
  def restart_in(%{restart_timer: timer}), do: Process.read_timer(timer) || 100

  # A port that says nothing is asked; one that does not answer is ended.
  @spec watch_port(State.t()) :: State.t()
  def watch_port(%{opts: %{watchdog: :infinity}} = state), do: state
  def watch_port(%{status: status} = state) when status != :up, do: state
  def watch_port(%{heard: true} = state), do: %{state | heard: false, silent: 0}

  def watch_port(state) do
    silent = state.silent + State.tick_ms(state)
    limit = state.opts.watchdog
    state = %{state | silent: silent}

    cond do
      silent >= limit ->
        give_port_up(state, "it has not answered for #{silent} ms (watchdog)")

      silent >= div(limit, 2) and silent - State.tick_ms(state) < div(limit, 2) ->
        own_call(state, "ping", 1, Msgpack.int(0), :ping)

      true ->
        state
    end
  end
end
