# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Lane do
  # A process that sends its share of an open schedule, each request when it is due, whatever became
  # of those before, and takes the answers.
  #
  # The BEAM's timers tick in milliseconds. So it sleeps only while the next request is further away
  # than that, and then looks at the clock until it is due, taking answers meanwhile. What is late is
  # sent at once, and its latency counts from when it was due; how late it was is recorded.
  @moduledoc false

  alias GpuSched.Admission
  alias GpuSched.Load.{Schedule, Sender, Tally}

  # It wakes from a sleep so much earlier than it has to.
  @early_ns 2_000_000
  # Answers taken before it looks at the clock again.
  @answers 8

  # What it has to tell beside the tally.
  # `busy` is the share of the time that it did not wait for the next to be due, or nil: it has answers
  # to take as well, which are older by however long it does something else.
  @type told :: %{
          errors: %{atom => pos_integer},
          why: %{atom => String.t()},
          overfull: non_neg_integer,
          behind: non_neg_integer,
          busy: float | nil
        }

  @spec run(map, Sender.t(), Tally.t(), Schedule.t()) :: told
  def run(spec, sender, tally, schedule) do
    Process.flag(:message_queue_data, :off_heap)
    # Others must get their turn where there is one scheduler only.
    if spec.priority == :high, do: Process.flag(:priority, :high)

    s = %{
      sender: sender,
      tally: tally,
      pool: spec.pool,
      n: tuple_size(spec.pool),
      # The schedule begins with the warm-up.
      start: spec.start,
      stop: tally.finish,
      patience: spec.patience,
      spin: spec.spin,
      most: spec.max_in_flight,
      # In ns, of what is measured.
      idle: 0,
      told: %{errors: %{}, why: %{}, overfull: 0, behind: 0, busy: nil}
    }

    {s, flying} = next(s, schedule, 0, %{})
    wait_for_last({%{s | told: %{s.told | busy: busy(s)}}, flying})
  end

  # When it has sent its last before the end it rests until then.
  defp busy(%{tally: %{start: start, finish: finish}} = s) do
    rest = max(finish - max(Admission.now(), start), 0)
    max(1.0 - (s.idle + rest) / (finish - start), 0.0)
  end

  defp next(s, schedule, i, flying) do
    case Schedule.next(schedule) do
      {at, schedule} when s.start + at < s.stop -> due(s, s.start + at, schedule, i, flying)
      _over -> {s, flying}
    end
  end

  defp due(s, at, schedule, i, flying) do
    now = Admission.now()

    if at <= now do
      {s, flying} = send_one(s, at, now, i, flying)
      {s, flying} = take(s, flying, @answers)
      next(s, schedule, i + 1, flying)
    else
      {s, flying} = take_idle(s, flying, now, at)
      due(s, at, schedule, i, flying)
    end
  end

  defp sleep_ms(ns, true) when ns <= @early_ns, do: 0
  defp sleep_ms(ns, true), do: div(ns - @early_ns, 1_000_000)
  defp sleep_ms(ns, false), do: div(ns + 999_999, 1_000_000)

  # So late that what was sent in time is not waited for any longer either.
  defp send_one(s, at, now, _i, flying) when now >= s.stop + s.patience do
    Tally.sent(s.tally, at, now)
    s = failed(s, at, now, :not_sent)
    {%{s | told: Map.update!(s.told, :behind, &(&1 + 1))}, flying}
  end

  defp send_one(s, at, now, _i, flying) when map_size(flying) >= s.most do
    Tally.sent(s.tally, at, now)
    s = failed(s, at, now, :not_sent)
    {%{s | told: Map.update!(s.told, :overfull, &(&1 + 1))}, flying}
  end

  defp send_one(s, at, now, i, flying) do
    inputs = elem(s.pool, rem(i, s.n))
    Tally.called(s.tally, at)
    tally = s.tally

    case Sender.send(s.sender, inputs, fn -> Tally.left(tally, at, Admission.now()) end) do
      {:sent, ref, entry} ->
        {s, Map.put(flying, ref, {at, now, entry})}

      {:answered, {:error, reason}} ->
        {failed(s, at, Admission.now(), reason), flying}
    end
  end

  defp take(s, flying, 0), do: {s, flying}

  defp take(s, flying, n) do
    receive do
      message ->
        {s, flying} = answered(s, message, flying)
        take(s, flying, n - 1)
    after
      0 -> {s, flying}
    end
  end

  defp take_one(s, flying, ms) do
    receive do
      message -> answered(s, message, flying)
    after
      ms -> {s, flying}
    end
  end

  # Until it is due, or something has come.
  defp take_idle(s, flying, since, at) do
    receive do
      message ->
        now = Admission.now()
        s |> rested(since, min(now, at)) |> answered(message, flying, now)
    after
      sleep_ms(at - since, s.spin) ->
        {rested(s, since, min(Admission.now(), at + slack(s.spin))), flying}
    end
  end

  # Who comes back after it was due had no rest since then, but was given no time. Only a timer may be
  # late where it does not spin.
  defp slack(true), do: 0
  defp slack(false), do: @early_ns

  defp rested(s, since, until) do
    ns = min(until, s.tally.finish) - max(since, s.tally.start)
    if ns > 0, do: %{s | idle: s.idle + ns}, else: s
  end

  defp answered(s, message, flying), do: answered(s, message, flying, Admission.now())

  defp answered(s, message, flying, now) do
    with {ref, answer} <- Sender.key(message),
         {{at, sent, entry}, flying} <- Map.pop(flying, ref) do
      case Sender.outcome(entry, answer) do
        {:ok, told} ->
          Tally.ok(s.tally, at, sent, now, told)
          {s, flying}

        {:error, reason} ->
          {failed(s, at, now, reason), flying}
      end
    else
      _nobody -> {s, flying}
    end
  end

  defp failed(s, at, now, reason) do
    if Tally.failed(s.tally, at, now),
      do: %{s | told: Sender.count(s.told, reason)},
      else: s
  end

  # Nothing is sent any more. What has no answer when the patience is over counts as failed, as old
  # as it is by then.
  defp wait_for_last({s, flying}), do: wait_for_last(s, flying, s.stop + s.patience)

  defp wait_for_last(s, flying, _until) when map_size(flying) == 0, do: s.told

  defp wait_for_last(s, flying, until) do
    now = Admission.now()

    if now >= until do
      Enum.reduce(flying, s, fn {_ref, {at, _sent, entry}}, s ->
        Sender.give_up(entry)
        failed(s, at, now, :no_answer)
      end).told
    else
      {s, flying} = take_one(s, flying, div(until - now + 999_999, 1_000_000))
      wait_for_last(s, flying, until)
    end
  end
end
