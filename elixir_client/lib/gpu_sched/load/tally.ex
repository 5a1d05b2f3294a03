# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Tally do
  # What the generators on one node count while they run, in memory that they share.
  #
  # A request belongs to the window in which it was to be sent, so that whatever happened to it,
  # however late, counts; throughput is counted in the window in which the answer came. What was to
  # be sent before the first window is warm-up, and leaves no trace. What ended, well or not, is counted
  # when it did, so that what is under way can be followed.
  @moduledoc false

  alias GpuSched.Load.{Histogram, Recorder}

  @sent 1
  @ok 2
  @failed 3
  @in_time 4
  @done 5
  @told 6
  @batch 7
  @queue 8
  @compute 9
  @ended 10
  @slots 10

  @hists [:service, :queue, :compute, :batch, :lateness, :failed]

  # `start` and `finish` are those of what is measured, on this node's clock.
  defstruct [:start, :finish, :window, :windows, :target | @hists]

  @type t :: %__MODULE__{}

  # What is known of an answer beside that it came.
  @type told :: %{optional(String.t()) => term}

  # The last window is shorter where `duration` says so.
  @spec new(integer, pos_integer, pos_integer, pos_integer | nil, pos_integer | nil) :: t
  def new(start, window, n, target, duration \\ nil) do
    windows = for _ <- 1..n, do: {:counters.new(@slots, [:atomics]), Recorder.new()}

    struct!(
      %__MODULE__{
        start: start,
        finish: start + (duration || window * n),
        window: window,
        windows: List.to_tuple(windows),
        target: target
      },
      Enum.map(@hists, &{&1, Recorder.new()})
    )
  end

  # The window of a time, or nil.
  defp window(%{start: start, finish: finish} = t, time) when time >= start and time < finish,
    do: elem(t.windows, div(time - start, t.window))

  defp window(_t, _time), do: nil

  @spec sent(t, integer, integer) :: :ok
  def sent(t, scheduled, sent) do
    called(t, scheduled)
    left(t, scheduled, sent)
  end

  # How late it was is known where it really leaves: in its own process, where it has one.
  @spec left(t, integer, integer) :: :ok
  def left(t, scheduled, left) do
    if window(t, scheduled), do: Recorder.record(t.lateness, left - scheduled)
    :ok
  end

  # Without saying how late.
  @spec called(t, integer) :: :ok
  def called(t, sent) do
    case window(t, sent) do
      nil -> :ok
      {counters, _latency} -> :counters.add(counters, @sent, 1)
    end
  end

  # Whether it counts, because it was to be sent while it was measured.
  @spec ok(t, integer, integer, integer, told) :: boolean
  def ok(t, scheduled, sent, done, told) do
    case window(t, done) do
      nil ->
        :ok

      {counters, _latency} ->
        :counters.add(counters, @done, 1)
        :counters.add(counters, @ended, 1)
        tell(counters, told)
    end

    case window(t, scheduled) do
      nil ->
        false

      {counters, latency} ->
        :counters.add(counters, @ok, 1)
        Recorder.record(latency, done - scheduled)
        Recorder.record(t.service, done - sent)
        if t.target && done - scheduled <= t.target, do: :counters.add(counters, @in_time, 1)
        parts(t, told)
        true
    end
  end

  defp tell(counters, %{"batch" => batch, "queue_us" => queue, "compute_us" => compute})
       when is_integer(batch) and is_integer(queue) and is_integer(compute) do
    :counters.add(counters, @told, 1)
    :counters.add(counters, @batch, batch)
    :counters.add(counters, @queue, queue)
    :counters.add(counters, @compute, compute)
  end

  defp tell(_counters, _told), do: :ok

  defp parts(t, %{"batch" => batch, "queue_us" => queue, "compute_us" => compute})
       when is_integer(batch) and is_integer(queue) and is_integer(compute) do
    Recorder.record(t.batch, batch)
    Recorder.record(t.queue, queue * 1_000)
    Recorder.record(t.compute, compute * 1_000)
  end

  defp parts(_t, _told), do: :ok

  @spec failed(t, integer, integer) :: boolean
  def failed(t, scheduled, done) do
    with {counters, _latency} <- window(t, done), do: :counters.add(counters, @ended, 1)

    case window(t, scheduled) do
      nil ->
        false

      {counters, _latency} ->
        :counters.add(counters, @failed, 1)
        Recorder.record(t.failed, done - scheduled)
        true
    end
  end

  # One window as it is now, for those who watch.
  @spec glance(t, non_neg_integer) :: map
  def glance(t, n) do
    {counters, latency} = elem(t.windows, n)

    Map.merge(counts(counters), %{"window" => n, "latency" => Recorder.read(latency)})
  end

  defp counts(counters) do
    %{
      "sent" => :counters.get(counters, @sent),
      "ok" => :counters.get(counters, @ok),
      "failed" => :counters.get(counters, @failed),
      "in_time" => :counters.get(counters, @in_time),
      "done" => :counters.get(counters, @done),
      "ended" => :counters.get(counters, @ended),
      "told" => :counters.get(counters, @told),
      "batch_sum" => :counters.get(counters, @batch),
      "queue_us_sum" => :counters.get(counters, @queue),
      "compute_us_sum" => :counters.get(counters, @compute)
    }
  end

  # All of it, as plain terms; those of several nodes are merged by merge/2.
  @spec read(t) :: map
  def read(t) do
    windows = for n <- 0..(tuple_size(t.windows) - 1), do: glance(t, n)
    hists = Map.new(@hists, &{Atom.to_string(&1), Recorder.read(Map.fetch!(t, &1))})
    Map.put(hists, "windows", windows)
  end

  @spec merge(map, map) :: map
  def merge(a, b), do: Map.merge(a, b, &merge/3)

  defp merge("windows", a, b), do: Enum.zip_with(a, b, &merge_window/2)
  defp merge("errors", a, b), do: Map.merge(a, b, fn _reason, n, m -> n + m end)
  defp merge("why", a, b), do: Map.merge(a, b)
  defp merge(key, a, b) when key in ["busy", "skew"], do: max(a, b)
  defp merge(_key, %Histogram{} = a, %Histogram{} = b), do: Histogram.merge(a, b)
  defp merge(_key, a, b) when is_list(a) and is_list(b), do: a ++ b
  defp merge(_key, a, b) when is_number(a) and is_number(b), do: a + b

  defp merge_window(a, b) do
    Map.merge(a, b, fn
      "window", n, _same -> n
      "latency", h, g -> Histogram.merge(h, g)
      _count, n, m -> n + m
    end)
  end
end
