# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Events do
  # What happens at one scheduler, told to whoever subscribed. The owner of the port and the table of
  # jobs hand over what they hear; where nobody listens that costs them a look at a counter.
  #
  # This process sends to its own node only, and never waits: each subscriber has a GpuSched.Events.Pump,
  # to which so much is handed as has room there.
  @moduledoc false
  use GenServer

  alias GpuSched.{Directory, Error, Owner, Remote, Resolve, Telemetry}
  alias GpuSched.Events.Pump

  # How often the progress of one job is told at most.
  @progress_ms 100
  @most_subscribers 1_000
  @call_ms 5_000

  @type handle :: %{pid: pid, source: String.t(), listeners: :atomics.atomics_ref()}

  # ---- from the owner of the port, and the table of jobs

  @spec start_link(String.t()) :: handle
  def start_link(label) do
    source = Atom.to_string(node()) <> "/" <> label
    listeners = :atomics.new(1, [])
    {:ok, pid} = GenServer.start_link(__MODULE__, {source, listeners})
    %{pid: pid, source: source, listeners: listeners}
  end

  @spec tell(handle, {atom, map}) :: :ok
  def tell(%{pid: pid, listeners: listeners}, event) do
    if :atomics.get(listeners, 1) > 0, do: send(pid, {:event, event})
    :ok
  end

  # Of progress, the latest is told now and then.
  @spec progress(handle, map) :: :ok
  def progress(%{pid: pid, listeners: listeners}, row) do
    if :atomics.get(listeners, 1) > 0, do: send(pid, {:progress, row})
    :ok
  end

  # What both subscribers and telemetry are told.
  @spec overload(handle, pid, map) :: :ok
  def overload(handle, server, event) do
    Telemetry.execute(
      [:gpu_sched, :overload, :state],
      %{count: 1, refused: event["refused"]},
      %{server: server, state: event["state"], at: event["at"]}
    )

    tell(handle, {:overload, event})
  end

  # The last that is told.
  @spec close(handle, String.t()) :: :ok
  def close(%{pid: pid}, why) do
    Process.unlink(pid)
    send(pid, {:close, why})
    :ok
  end

  # ---- for callers

  @spec subscribe(GenServer.server(), pid | nil) :: {:ok, String.t()} | {:error, Error.t()}
  def subscribe(server, pid) do
    pid = pid || Owner.current()
    at(server, :subscribe, [pid], &ask(&1, {:subscribe, pid}))
  end

  @spec unsubscribe(GenServer.server(), pid | nil) :: :ok | {:error, Error.t()}
  def unsubscribe(server, pid) do
    pid = pid || Owner.current()
    at(server, :unsubscribe, [pid], &ask(&1, {:unsubscribe, pid}))
  end

  defp at(server, function, args, fun) do
    case Resolve.server(server) do
      {:local, ctx} -> fun.(ctx.events.pid)
      {:remote, node, name} -> Remote.call(node, function, [name | args], @call_ms)
      {:error, error} -> {:error, error}
    end
  end

  defp ask(pid, request) do
    GenServer.call(pid, request, :infinity)
  catch
    :exit, _reason ->
      {:error, Error.exception(reason: :unavailable, message: "the scheduler ended a moment ago")}
  end

  # The source that the events of a scheduler on this node have, for those who tell several apart.
  @spec source(pid) :: String.t() | nil
  def source(server) do
    case Directory.fetch(server) do
      {:ok, ctx} -> ctx.events.source
      :error -> nil
    end
  end

  # ---- the process

  @impl true
  def init({source, listeners}) do
    Process.flag(:message_queue_data, :off_heap)
    {:ok, %{source: source, listeners: listeners, pumps: %{}, progress: %{}, timer: nil}}
  end

  @impl true
  def handle_call({:subscribe, to}, _from, state) do
    cond do
      is_map_key(state.pumps, to) ->
        {:reply, {:ok, state.source}, state}

      map_size(state.pumps) >= @most_subscribers ->
        message = "#{@most_subscribers} processes listen to #{state.source} already"
        {:reply, {:error, Error.exception(reason: :overloaded, message: message)}, state}

      true ->
        pump = Pump.start(to, state.source)
        {:reply, {:ok, state.source}, put_pumps(state, Map.put(state.pumps, to, pump))}
    end
  end

  def handle_call({:unsubscribe, to}, _from, state) do
    case Map.pop(state.pumps, to) do
      {nil, _pumps} ->
        {:reply, :ok, state}

      {pump, pumps} ->
        Pump.stop(pump)
        {:reply, :ok, put_pumps(state, pumps)}
    end
  end

  defp put_pumps(state, pumps) do
    :atomics.put(state.listeners, 1, map_size(pumps))
    %{state | pumps: pumps}
  end

  @impl true
  def handle_info({:event, {:job, %{"job" => job}} = event}, state) do
    # How far it was before that does not matter any more.
    {:noreply, broadcast(%{state | progress: Map.delete(state.progress, job)}, event)}
  end

  def handle_info({:event, event}, state), do: {:noreply, broadcast(state, event)}

  def handle_info({:progress, %{"job" => job} = row}, state) do
    timer = state.timer || Process.send_after(self(), :tell_progress, @progress_ms)
    {:noreply, %{state | progress: Map.put(state.progress, job, row), timer: timer}}
  end

  def handle_info(:tell_progress, state) do
    state = Enum.reduce(state.progress, state, fn {_job, row}, s -> broadcast(s, {:job, row}) end)
    {:noreply, %{state | progress: %{}, timer: nil}}
  end

  def handle_info({:pump_done, to}, state),
    do: {:noreply, put_pumps(state, Map.delete(state.pumps, to))}

  def handle_info({:close, why}, state) do
    broadcast(state, {:port, %{"state" => "stopped", "reason" => why}})
    for {_to, pump} <- state.pumps, do: Pump.finish(pump)
    {:stop, :normal, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp broadcast(state, event) do
    for {_to, pump} <- state.pumps, do: Pump.offer(pump, event)
    state
  end
end
