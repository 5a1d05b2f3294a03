# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Schedule do
  # When requests are to be sent: times in ns from the beginning, made one after the other from a
  # seed, so that whoever has the same description has the same times. Those that share the work
  # each take every n-th of them, so that together they send this very schedule, whatever it is.
  @moduledoc false

  alias GpuSched.Load.Trace

  # `index` counts all arrivals, `at` is the time of the last; `share` of `of` are taken.
  defstruct [:kind, :gap, :random, :rest, index: 0, at: 0.0, share: 0, of: 1]

  @type arrivals :: :constant | :poisson | {:gamma, cv :: number} | {:replay, [number]}
  @type t :: %__MODULE__{}

  # `rate` is that of the whole. A replay keeps its own times unless a rate is given.
  @spec new(arrivals, number | nil, integer, non_neg_integer, pos_integer) :: t
  def new(arrivals, rate, seed, share \\ 0, of \\ 1) do
    base = %__MODULE__{
      gap: rate && 1.0e9 / rate,
      random: :rand.seed_s(:exsss, seed),
      share: share,
      of: of
    }

    case arrivals do
      :constant -> %{base | kind: :constant}
      :poisson -> %{base | kind: :poisson}
      {:gamma, cv} when cv == 0 -> %{base | kind: :constant}
      {:gamma, cv} -> %{base | kind: {:gamma, 1.0 / (cv * cv)}}
      {:replay, times} -> %{base | kind: :replay, rest: Trace.at_rate(times, rate)}
    end
  end

  # The next arrival of this share, or :done at the end of a trace.
  @spec next(t) :: {non_neg_integer, t} | :done
  def next(%{kind: :constant, index: index, share: share, of: of} = s) do
    # From the number and not from the one before, so that errors do not add up.
    index = index + skip(index, share, of)
    {trunc(index * s.gap), %{s | index: index + 1}}
  end

  def next(%{index: index, share: share, of: of} = s),
    do: advance(s, skip(index, share, of) + 1)

  defp skip(index, share, of), do: rem(share - rem(index, of) + of, of)

  defp advance(%{kind: :replay, rest: rest} = s, n) do
    case Enum.drop(rest, n - 1) do
      [] -> :done
      [at | rest] -> {trunc(at * 1.0e9), %{s | index: s.index + n, rest: rest}}
    end
  end

  defp advance(s, 0), do: {trunc(s.at), s}

  defp advance(%{kind: kind} = s, n) do
    {gap, random} = sample(kind, s.random)
    advance(%{s | at: s.at + gap * s.gap, random: random, index: s.index + 1}, n - 1)
  end

  # Of mean 1.
  defp sample(:poisson, random) do
    {u, random} = :rand.uniform_real_s(random)
    {-:math.log(u), random}
  end

  defp sample({:gamma, shape}, random) do
    {x, random} = gamma(shape, random)
    {x / shape, random}
  end

  # Marsaglia and Tsang, "A simple method for generating gamma variables" (2000).
  defp gamma(shape, random) when shape < 1 do
    {u, random} = :rand.uniform_real_s(random)
    {x, random} = gamma(shape + 1, random)
    {x * :math.pow(u, 1 / shape), random}
  end

  defp gamma(shape, random) do
    d = shape - 1 / 3
    c = 1 / :math.sqrt(9 * d)
    gamma_try(d, c, random)
  end

  defp gamma_try(d, c, random) do
    {x, random} = :rand.normal_s(random)
    v = 1 + c * x

    if v <= 0 do
      gamma_try(d, c, random)
    else
      v = v * v * v
      {u, random} = :rand.uniform_real_s(random)

      if :math.log(u) < 0.5 * x * x + d - d * v + d * :math.log(v),
        do: {d * v, random},
        else: gamma_try(d, c, random)
    end
  end
end
