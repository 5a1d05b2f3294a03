# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Way do
  # What answers of late have been on their way, there and back, beside the time that the scheduler had
  # the request for. An answer that is done at its deadline is late by that, and near saturation all of
  # them are: so much earlier it has to be done.
  #
  # Of these times the nine tenths' percentile is kept, in a slot of an array of atomics, by steps up that
  # are nine times as large as those down. Callers that do so at once may lose a step.
  @moduledoc false

  alias GpuSched.Admission

  @type t :: {:atomics.atomics_ref(), slot :: pos_integer, longest_ns :: pos_integer}

  # An answer took so many ns.
  @spec learn(t, integer) :: :ok
  def learn({ref, slot, longest}, ns) do
    ns = ns |> max(0) |> min(longest)

    case :atomics.get(ref, slot) do
      0 -> :atomics.put(ref, slot, ns)
      way when ns > way -> :atomics.put(ref, slot, min(way + 9 * step(way), ns))
      way -> :atomics.put(ref, slot, max(way - step(way), ns))
    end
  end

  # The same of an answer to a request that was sent at a time; what was tried twice says nothing.
  @spec learn_from(answer, t, integer) :: answer
        when answer: {:ok, map} | {:raw, binary} | {:error, term}
  def learn_from({:ok, %{"attempts" => 1} = result} = answer, way, sent) do
    inside = (result["queue_us"] + result["compute_us"]) * 1_000
    learn(way, Admission.now() - sent - inside)
    answer
  end

  def learn_from(answer, _way, _sent), do: answer

  # An answer was not there at its deadline. Who can't be served in time is told before that, so it was on
  # its way.
  @spec learn_late(t) :: :ok
  def learn_late({ref, slot, _longest} = way), do: learn(way, :atomics.get(ref, slot) * 2)

  # When an answer has to be done to be here at `deadline`; no more than a quarter of what is left is taken
  # off.
  @spec due(t, integer | :infinity) :: integer | :infinity
  def due(_way, :infinity), do: :infinity

  def due({ref, slot, _longest}, deadline) do
    left = max(deadline - Admission.now(), 0)
    deadline - min(:atomics.get(ref, slot), div(left, 4))
  end

  defp step(way), do: div(way, 128) + 1
end
