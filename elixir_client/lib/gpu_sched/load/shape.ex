# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Shape do
  # What is in a run that was read from a file, which may be anybody's: all that is computed with, drawn
  # or written into a page is what it has to be.
  @moduledoc false

  @run [
    title: :text,
    target: :text,
    started_at: :text,
    arrivals: :text,
    machine: {
      %{"node" => :text, "schedulers" => :count, "otp" => :text, "elixir" => :text},
      %{"generators" => {:list, :text}, "lanes" => {:maybe, :count}}
    },
    options: {
      %{"duration_ms" => :number, "warmup_ms" => :number},
      %{"window_ms" => :number, "within_ms" => {:maybe, :number}, "percentile" => :number}
    },
    search:
      {:maybe,
       {%{"percentile" => :number, "within_ms" => :number},
        %{
          "rate" => {:maybe, :number},
          "fails_at" => {:maybe, :number},
          "limited" => {:maybe, :text}
        }}},
    knee: {:maybe, :number},
    broke: {:maybe, {%{"offered" => {:maybe, :number}, "error" => :text}, %{}}},
    points: {:list, :map}
  ]

  @point %{
    "offered" => :number,
    "seconds" => :number,
    "sent" => :count,
    "ok" => :count,
    "failed" => :count,
    "throughput" => :number,
    "mode" => :mode,
    "errors" => {:map_of, :count},
    "windows" => {:list, {:map_of, {:maybe, :number}}}
  }

  @point_more %{
    "within_ms" => {:maybe, :number},
    "in_time" => {:maybe, :count},
    "stable" => {:maybe, :boolean},
    "growing" => {:maybe, :boolean},
    "trace_ended" => {:maybe, :number},
    "generator_busy" => {:maybe, :number},
    "skew_ms" => {:maybe, :number},
    "limited" => {:maybe, :text},
    "why" => {:maybe, {:map_of, :text}}
  }

  # What is wrong, in words, or nil.
  @spec run(struct) :: String.t() | nil
  def run(run) do
    Enum.find_value(@run, fn {key, shape} ->
      wrong(Map.fetch!(run, key), shape, Atom.to_string(key))
    end)
  end

  @spec point(map) :: String.t() | nil
  def point(point), do: wrong(point, {@point, @point_more}, "a point")

  # Of a map: what has to be there, and what may be.
  defp wrong(value, {needed, more}, where) when is_map(needed) and is_map(more) do
    if is_map(value) do
      missing = Enum.find(Map.keys(needed), &(not is_map_key(value, &1)))

      if missing do
        "#{where} has no #{inspect(missing)}"
      else
        Enum.find_value(Map.merge(needed, more), fn {key, shape} ->
          if is_map_key(value, key), do: wrong(value[key], shape, "#{inspect(key)} of #{where}")
        end)
      end
    else
      got(where, "an object", value)
    end
  end

  defp wrong(nil, {:maybe, _shape}, _where), do: nil
  defp wrong(value, {:maybe, shape}, where), do: wrong(value, shape, where)

  defp wrong(value, {:list, shape}, where) do
    if is_list(value),
      do: Enum.find_value(value, &wrong(&1, shape, "one of #{where}")),
      else: got(where, "a list", value)
  end

  defp wrong(value, {:map_of, shape}, where) do
    if is_map(value),
      do:
        Enum.find_value(value, fn {key, v} -> wrong(v, shape, "#{inspect(key)} of #{where}") end),
      else: got(where, "an object", value)
  end

  defp wrong(value, shape, where) do
    {ok?, wanted} =
      case shape do
        :text -> {is_binary(value), "a string"}
        :number -> {is_number(value), "a number"}
        :count -> {is_integer(value) and value >= 0, "a count"}
        :boolean -> {is_boolean(value), "true or false"}
        :map -> {is_map(value), "an object"}
        :mode -> {value in ["open", "closed"], ~s("open" or "closed")}
      end

    unless ok?, do: got(where, wanted, value)
  end

  defp got(where, wanted, value),
    do: "#{where} is to be #{wanted}; got #{inspect(value, limit: 3, printable_limit: 40)}"
end
