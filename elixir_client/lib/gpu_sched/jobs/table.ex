# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Jobs.Table do
  # What is known of the jobs of one scheduler, and who wants to hear of them. The owner of the port
  # hands over what comes from there, and has nothing more to do with it.
  #
  # Each job has a row in a table that everybody on this node reads: {number, :live | :ended, what is
  # known of it}. Those that have ended are kept, the last so many. A row is made by the owner of the
  # port, before anybody is told of the number.
  #
  # This process sends to its own node only: whoever listens elsewhere has a GpuSched.Jobs.Watcher,
  # which may be suspended.
  @moduledoc false
  use GenServer

  alias GpuSched.{Error, Events, Telemetry}
  alias GpuSched.Jobs.{Id, Watcher}

  defstruct [
    :server,
    :label,
    :counter,
    :events,
    :table,
    :kept,
    :max_waiting,
    jobs: %{},
    monitors: %{},
    ended: :queue.new(),
    live: MapSet.new(),
    waiting: 0
  ]

  @type t :: %__MODULE__{}

  # What callers hold of it, in their context.
  @type handle :: %{
          pid: pid,
          table: :ets.tid(),
          label: String.t(),
          counter: :atomics.atomics_ref()
        }

  @spec start_link(pid, String.t(), :atomics.atomics_ref(), Events.handle(), map) :: handle
  def start_link(server, label, counter, events, opts) do
    {:ok, pid} = GenServer.start_link(__MODULE__, {server, label, counter, events, opts})
    %{pid: pid, table: GenServer.call(pid, :table), label: label, counter: counter}
  end

  # ---- from the owner of the port

  # The port has taken a job in.
  @spec submitted(handle, pos_integer) :: Id.t()
  def submitted(%{pid: pid, table: table, label: label, counter: counter}, number) do
    id = Id.format(label, number)
    :ets.insert(table, {number, :live, %{"job" => id, "state" => "checking"}})
    :atomics.put(counter, 1, number)
    tell(pid, {:submitted, number})
    id
  end

  @spec event(handle, map) :: :ok
  def event(%{pid: pid}, event), do: tell(pid, {:event, event})

  # The port has gone, and its jobs with it.
  @spec lost(handle, String.t()) :: :ok
  def lost(%{pid: pid}, why), do: tell(pid, {:lost, why})

  # The same, and it ends when that is told.
  @spec close(handle, String.t()) :: :ok
  def close(%{pid: pid} = handle, why) do
    Process.unlink(pid)
    lost(handle, why)
    tell(pid, :close)
  end

  defp tell(pid, message) do
    send(pid, message)
    :ok
  end

  # ---- for callers

  # The number that the next job is to have.
  @spec next_number(handle) :: pos_integer
  def next_number(%{counter: counter}), do: :atomics.get(counter, 1) + 1

  @spec fetch(handle, pos_integer) :: {:ok, :live | :ended, map} | {:error, Error.t()}
  def fetch(%{table: table, counter: counter, label: label}, number) do
    case :ets.lookup(table, number) do
      [{_number, state, row}] -> {:ok, state, row}
      [] -> {:error, unknown(label, number, counter)}
    end
  rescue
    ArgumentError -> {:error, Error.exception(reason: :unavailable)}
  end

  @spec ended(handle) :: [map]
  def ended(%{table: table}) do
    for {_number, :ended, row} <- Enum.sort(rows(table)), do: row
  end

  defp rows(table) do
    :ets.tab2list(table)
  rescue
    ArgumentError -> []
  end

  # How a job ended: what await/2 answers.
  @spec outcome(map) :: {:ok, map} | {:error, Error.t()}
  def outcome(%{"error" => %Error{} = error}), do: {:error, error}
  def outcome(%{"result" => result}), do: {:ok, result}

  # Waits for the end of a job, or, with :running, for it to have its devices.
  @spec await(handle, pos_integer, :ended | :running, GpuSched.Local.deadline(), timeout) ::
          {:ended, map} | {:running, map} | {:error, Error.t()}
  def await(%{pid: pid} = handle, number, what, deadline, timeout) do
    ref = :erlang.monitor(:process, pid, alias: :reply_demonitor)
    send(pid, {:await, number, what, ref, self()})

    receive do
      {^ref, answer} -> answer
      {:DOWN, ^ref, :process, _pid, reason} -> {:error, gone(reason)}
    after
      GpuSched.Local.remaining(deadline) ->
        GpuSched.Local.forget(ref)
        send(pid, {:forget, number, ref})
        {:error, late(handle, number, what, timeout)}
    end
  end

  # Its events go to `to`, as {tag, event} or, the tag being :plain, as {:gpu_sched, id, event}.
  @spec subscribe(handle, pos_integer, pid | reference, :plain | reference) ::
          :ok | {:error, Error.t()}
  def subscribe(%{pid: pid}, number, to, tag), do: ask(pid, {:subscribe, number, to, tag})

  @spec unsubscribe(handle, pos_integer, pid | reference) :: :ok | {:error, Error.t()}
  def unsubscribe(%{pid: pid}, number, to), do: ask(pid, {:unsubscribe, number, to})

  defp ask(pid, request) do
    GenServer.call(pid, request, :infinity)
  catch
    :exit, {reason, _call} -> {:error, gone(reason)}
  end

  defp late(%{label: label}, number, what, timeout) do
    not_yet = if what == :ended, do: "not done", else: "still waiting for its devices"

    Error.exception(
      reason: :deadline_exceeded,
      message: "the job #{Id.format(label, number)} was #{not_yet} after #{timeout} ms"
    )
  end

  defp unknown(label, number, counter) do
    Error.exception(
      reason: :not_found,
      message:
        if number <= :atomics.get(counter, 1) do
          "the job #{Id.format(label, number)} ended, and what became of it is no longer kept"
        else
          "there is no job #{Id.format(label, number)}"
        end
    )
  end

  @spec gone(term) :: Error.t()
  def gone(reason) do
    Error.exception(
      reason: :job_lost,
      message: "the scheduler of the job ended: #{inspect(reason, limit: 8)}"
    )
  end

  # -------------------------------------------------------------------------------- the process

  @impl true
  def init({server, label, counter, events, opts}) do
    Process.flag(:message_queue_data, :off_heap)
    table = :ets.new(__MODULE__, [:public, read_concurrency: true])

    {:ok,
     %__MODULE__{
       server: server,
       label: label,
       counter: counter,
       events: events,
       table: table,
       kept: opts.kept_jobs,
       max_waiting: opts.max_waiting
     }}
  end

  @impl true
  def handle_call(:table, _from, state), do: {:reply, state.table, state}

  def handle_call({:subscribe, number, to, tag}, {caller, _call}, state) do
    case row(state, number) do
      {:ok, :ended, row} ->
        Watcher.once(to, tag, row)
        {:reply, :ok, state}

      {:ok, :live, row} when state.waiting < state.max_waiting ->
        owner = if is_pid(to), do: to, else: caller
        {:reply, :ok, add_watcher(state, number, to, tag, owner, row)}

      {:ok, :live, _row} ->
        {:reply, {:error, too_many(state)}, state}

      :error ->
        {:reply, {:error, unknown(state.label, number, state.counter)}, state}
    end
  end

  def handle_call({:unsubscribe, number, to}, _from, state) do
    job = job(state, number)
    if watcher = job.watchers[to], do: Watcher.stop(watcher)
    {:reply, :ok, drop_watcher(state, number, to)}
  end

  @impl true
  def handle_info({:submitted, number}, state),
    do: {:noreply, %{state | live: MapSet.put(state.live, number)}}

  def handle_info({:event, %{"job" => number} = event}, state) do
    if MapSet.member?(state.live, number),
      do: {:noreply, happened(state, number, own(event))},
      else: {:noreply, state}
  end

  def handle_info({:lost, why}, state) do
    error = Error.exception(reason: :job_lost, message: "the job ended with sched-port: #{why}")

    state =
      for number <- Enum.sort(state.live), reduce: state do
        state -> ended(state, number, %{"state" => "ended", "status" => error, "result" => %{}})
      end

    {:noreply, %{state | live: MapSet.new()}}
  end

  def handle_info({:await, number, what, ref, pid}, state) do
    case row(state, number) do
      {:ok, :ended, row} ->
        reply(state, ref, {:ended, row})

      {:ok, :live, %{"state" => "running"} = row} when what == :running ->
        reply(state, ref, {:running, row})

      {:ok, :live, _row} when state.waiting < state.max_waiting ->
        job = job(state, number)
        monitor = Process.monitor(pid)
        state = %{state | monitors: Map.put(state.monitors, monitor, {number, ref})}
        {:noreply, put_job(state, number, put_in(job.waiters[ref], {what, monitor}), 1)}

      {:ok, :live, _row} ->
        reply(state, ref, {:error, too_many(state)})

      :error ->
        reply(state, ref, {:error, unknown(state.label, number, state.counter)})
    end
  end

  def handle_info({:forget, number, ref}, state), do: {:noreply, drop_waiter(state, number, ref)}

  def handle_info({:watcher_done, number, to}, state),
    do: {:noreply, drop_watcher(state, number, to)}

  # One that waited died.
  def handle_info({:DOWN, monitor, :process, _pid, _reason}, state) do
    case state.monitors do
      %{^monitor => {number, ref}} -> {:noreply, drop_waiter(state, number, ref)}
      _ -> {:noreply, state}
    end
  end

  def handle_info(:close, state), do: {:stop, :normal, state}
  def handle_info(_other, state), do: {:noreply, state}

  # ---- what happens

  defp happened(state, number, %{"state" => "ended"} = event) do
    status =
      case event["status"] do
        nil -> nil
        error -> Error.from_wire(error)
      end

    event = Map.merge(event, %{"status" => status, "result" => event["result"] || %{}})
    ended(%{state | live: MapSet.delete(state.live, number)}, number, event)
  end

  defp happened(state, number, event) do
    [{_number, :live, before}] = :ets.lookup(state.table, number)
    row = Map.merge(before, known(event))
    :ets.insert(state.table, {number, :live, row})

    state =
      if row["state"] == before["state"] do
        Events.progress(state.events, row)
        state
      else
        Events.tell(state.events, {:job, row})
        changed(state, number, row)
      end

    for {_to, watcher} <- job(state, number).watchers, do: Watcher.poke(watcher)
    state
  end

  defp changed(state, number, row) do
    telemetry(state, row, nil)

    if row["state"] == "running",
      do: answer(state, number, :running, {:running, row}),
      else: state
  end

  defp ended(state, number, event) do
    [{_number, :live, before}] = :ets.lookup(state.table, number)

    row =
      before
      |> Map.merge(known(event))
      |> Map.merge(%{"error" => event["status"], "result" => event["result"]})

    :ets.insert(state.table, {number, :ended, row})
    # Which may be large, and who wants it can ask for it.
    Events.tell(state.events, {:job, Map.delete(row, "result")})
    telemetry(state, row, event["status"])
    state = answer(state, number, :all, {:ended, row})
    job = job(state, number)
    for {_to, watcher} <- job.watchers, do: Watcher.final(watcher, row)

    keep(%{
      state
      | jobs: Map.delete(state.jobs, number),
        waiting: state.waiting - map_size(job.watchers),
        ended: :queue.in(number, state.ended)
    })
  end

  # The last so many.
  defp keep(%{kept: kept} = state) do
    if :queue.len(state.ended) > kept do
      {{:value, number}, queue} = :queue.out(state.ended)
      :ets.delete(state.table, number)
      keep(%{state | ended: queue})
    else
      state
    end
  end

  # Of an event, what is told of the job.
  defp known(event), do: Map.take(event, ["name", "state", "done", "total", "message", "devices"])

  defp telemetry(state, row, error) do
    Telemetry.execute([:gpu_sched, :job, :state], %{count: 1}, %{
      server: state.server,
      job: row["job"],
      name: row["name"],
      state: row["state"],
      error: error
    })
  end

  # ---- those who wait

  defp answer(state, number, what, answer) do
    for {ref, {wanted, _monitor}} <- job(state, number).waiters,
        what == :all or wanted == what,
        reduce: state do
      state ->
        send(ref, {ref, answer})
        drop_waiter(state, number, ref)
    end
  end

  defp reply(state, ref, answer) do
    send(ref, {ref, answer})
    {:noreply, state}
  end

  defp row(state, number) do
    case :ets.lookup(state.table, number) do
      [{_number, live, row}] -> {:ok, live, row}
      [] -> :error
    end
  end

  defp job(state, number), do: Map.get(state.jobs, number, %{waiters: %{}, watchers: %{}})

  # One more waits for something, or one less.
  defp put_job(state, number, %{waiters: w, watchers: s}, more)
       when map_size(w) == 0 and map_size(s) == 0,
       do: %{state | jobs: Map.delete(state.jobs, number), waiting: state.waiting + more}

  defp put_job(state, number, job, more),
    do: %{state | jobs: Map.put(state.jobs, number, job), waiting: state.waiting + more}

  defp drop_waiter(state, number, ref) do
    job = job(state, number)

    case Map.pop(job.waiters, ref) do
      {nil, _waiters} ->
        state

      {{_what, monitor}, waiters} ->
        Process.demonitor(monitor, [:flush])
        state = %{state | monitors: Map.delete(state.monitors, monitor)}
        put_job(state, number, %{job | waiters: waiters}, -1)
    end
  end

  defp add_watcher(state, number, to, tag, owner, row) do
    job = job(state, number)

    if is_map_key(job.watchers, to) do
      state
    else
      watcher = Watcher.start(state.table, number, to, tag, owner, row)
      put_job(state, number, put_in(job.watchers[to], watcher), 1)
    end
  end

  defp drop_watcher(state, number, to) do
    job = job(state, number)

    if is_map_key(job.watchers, to),
      do: put_job(state, number, %{job | watchers: Map.delete(job.watchers, to)}, -1),
      else: state
  end

  defp too_many(state) do
    Error.exception(
      reason: :overloaded,
      message: "#{state.waiting} wait for jobs, or listen to them, already (max_waiting)"
    )
  end

  # The strings of an event must not keep the frame alive that it came in.
  defp own(term) when is_binary(term), do: :binary.copy(term)
  defp own(term) when is_list(term), do: Enum.map(term, &own/1)
  defp own(term) when is_map(term), do: Map.new(term, fn {k, v} -> {own(k), own(v)} end)
  defp own(term), do: term
end
