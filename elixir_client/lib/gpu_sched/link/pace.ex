# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Link.Pace do
  # What those who send something large in one direction of a link have found out about the way, for the
  # next of them: how much at a time keeps it busy, how long a piece takes, there and its acknowledgement
  # back, where nothing is before it, and whether what is sent before anybody has said that it will be
  # taken is taken.
  #
  # It is an array of atomics, of which each value stands for itself: those who send at once may lose a
  # step of each other.
  @moduledoc false

  @window 1
  @least_us 2
  @last_us 3
  @eager 4

  # On a short way two megabytes keep it busy; on a long one it takes as much as it holds: what comes
  # through in a round trip, twice.
  @least 2 * 1_048_576
  @most 64 * 1_048_576
  # No more is sent before it is known whether it will be taken.
  @most_early 16 * 1_048_576
  # A way that nobody has used for so long has nothing on it.
  @quiet_us 1_000_000

  @type t :: :atomics.atomics_ref()

  @spec new :: t
  def new, do: :atomics.new(4, signed: true)

  # How many bytes may be under way.
  @spec window(t) :: pos_integer
  def window(pace), do: max(:atomics.get(pace, @window), @least)

  # How many of them before the other side has said that it takes what they belong to: none, until it
  # has, and after it did not.
  @spec early(t) :: non_neg_integer
  def early(pace) do
    if :atomics.get(pace, @eager) == 1, do: min(window(pace), @most_early), else: 0
  end

  # It would have been taken as it came, or not.
  @spec taken(t, boolean) :: :ok
  def taken(pace, taken?), do: :atomics.put(pace, @eager, if(taken?, do: 1, else: 0))

  # Whether nothing has been acknowledged for a while.
  @spec quiet?(t, us :: integer) :: boolean
  def quiet?(pace, now) do
    last = :atomics.get(pace, @last_us)
    last == 0 or now - last > @quiet_us
  end

  # A piece was acknowledged after so long; how long the way is by that. It is the shortest time of all,
  # since most have something before them. One that found the way quiet may say that it has become longer,
  # twice at most: it may have been held up by something else.
  @spec measured(t, us :: pos_integer, quiet :: boolean, us :: integer) :: us :: pos_integer
  def measured(pace, took, quiet?, now) do
    :atomics.put(pace, @last_us, now)

    least =
      case :atomics.get(pace, @least_us) do
        0 -> took
        least when quiet? -> min(took, 2 * least)
        least -> min(took, least)
      end

    :atomics.put(pace, @least_us, least)
    least
  end

  # What keeps a way busy, of that length, through which so many bytes come in a µs.
  @spec enough(float, us :: pos_integer) :: pos_integer
  def enough(rate, least_us), do: round(2 * rate * least_us) |> max(@least) |> min(@most)

  # So much was enough for something that large. What was not more than may be under way says only that
  # it could be more.
  @spec learn(t, pos_integer, pos_integer) :: :ok
  def learn(pace, enough, size) do
    window = window(pace)
    if size > window or enough > window, do: :atomics.put(pace, @window, enough), else: :ok
  end
end
