# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Knee do
  # Where more load begins to cost latency: of the points of a sweep, the one that lies furthest below
  # the straight line from the first to the last, load and p99 being scaled to 0…1 (Satopää and
  # others, "Finding a kneedle in a haystack", 2011). Where none is clearly below there is no knee.
  @moduledoc false

  alias GpuSched.Load.Point

  @clearly 0.1

  # The load of that point, or nil.
  @spec find([Point.t()]) :: number | nil
  def find(points) do
    # Where more than 1 % failed there is no p99, and what was answered looks better than it was.
    pairs =
      for point <- points, y = Point.number(Point.percentile_ms(point, 99)) do
        {point["offered"], y}
      end

    case Enum.sort(pairs) do
      [_, _, _ | _] = pairs -> furthest(pairs)
      _too_few -> nil
    end
  end

  defp furthest(pairs) do
    {x0, y0} = hd(pairs)
    {x1, y1} = List.last(pairs)

    if x1 > x0 and y1 > y0 do
      {distance, x} =
        pairs
        |> Enum.map(fn {x, y} -> {(x - x0) / (x1 - x0) - (y - y0) / (y1 - y0), x} end)
        |> Enum.max()

      if distance > @clearly, do: x
    end
  end
end
