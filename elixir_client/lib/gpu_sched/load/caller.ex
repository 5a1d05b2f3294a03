# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Caller do
  # One of a closed loop: it sends, waits for the answer, thinks, and sends the next. What has no
  # answer when the patience is over counts as failed, as old as it is by then.
  @moduledoc false

  alias GpuSched.Admission
  alias GpuSched.Load.{Sender, Tally}

  @spec run(map, Sender.t(), Tally.t(), non_neg_integer) :: map
  def run(spec, sender, tally, number) do
    wait(spec.start - Admission.now())
    loop(spec, sender, tally, number, %{errors: %{}, why: %{}, overfull: 0, behind: 0, busy: nil})
  end

  defp wait(ns) when ns > 0, do: Process.sleep(div(ns + 999_999, 1_000_000))
  defp wait(_ns), do: :ok

  defp loop(spec, sender, tally, i, told) do
    sent = Admission.now()

    if sent >= tally.finish do
      told
    else
      inputs = elem(spec.pool, rem(i, tuple_size(spec.pool)))
      outcome = Sender.call(sender, inputs, tally.finish + spec.patience)
      told = done(tally, sent, Admission.now(), outcome, told)
      if spec.think > 0, do: Process.sleep(spec.think)
      loop(spec, sender, tally, i + 1, told)
    end
  end

  defp done(tally, sent, now, outcome, told) do
    Tally.called(tally, sent)

    case outcome do
      {:ok, about} ->
        Tally.ok(tally, sent, sent, now, about)
        told

      {:error, reason} ->
        if Tally.failed(tally, sent, now),
          do: Sender.count(told, reason),
          else: told
    end
  end
end
