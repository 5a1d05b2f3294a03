# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Svg do
  # Charts as SVG that stands in an HTML page: the colours are classes of its style sheet, so that one
  # drawing does for light and dark, and what a mouse points at is told by the browser itself.
  @moduledoc false

  alias GpuSched.Load.Table

  @width 720
  @height 300
  @left 64
  @right 16
  # Room for the legend.
  @top 34
  @bottom 44

  @type axis :: %{
          required(:label) => String.t(),
          optional(:scale) => :linear | :log | :percent,
          optional(:from) => number
        }
  @type series :: %{
          required(:name) => String.t(),
          required(:class) => String.t(),
          required(:points) => [{number, number}],
          optional(:tips) => (number, number -> String.t())
        }

  # `levels` are horizontal lines, `marks` vertical ones: {value, text}.
  @spec lines(axis, axis, [series], keyword) :: iodata
  def lines(x, y, series, extra \\ []) do
    points = Enum.flat_map(series, & &1.points)

    if points == [] do
      []
    else
      levels = Keyword.get(extra, :levels, [])
      marks = Keyword.get(extra, :marks, [])
      xs = Enum.map(points, &elem(&1, 0)) ++ Enum.map(marks, &elem(&1, 0))
      ys = Enum.map(points, &elem(&1, 1)) ++ Enum.map(levels, &elem(&1, 0))
      to_x = scale(x, xs, @left, @width - @right)
      to_y = scale(y, ys, @height - @bottom, @top)

      svg([
        grid(to_x, to_y, x, y),
        for({value, text} <- levels, do: level(to_y.at.(value), text)),
        for({{value, text}, i} <- Enum.with_index(marks), do: mark(to_x.at.(value), text, i)),
        for(s <- series, do: line(s, to_x, to_y, x, y)),
        legend(series)
      ])
    end
  end

  # Bars of parts on each other, for each of some names: {name, [value]}.
  @spec bars(String.t(), axis, [{String.t(), String.t()}], [{String.t(), [number]}]) :: iodata
  def bars(_label, _y, _parts, []), do: []

  def bars(label, y, parts, columns) do
    ys = Enum.map(columns, fn {_name, values} -> Enum.sum(values) end)
    to_y = scale(Map.put(y, :from, 0), ys, @height - @bottom, @top)
    step = (@width - @left - @right) / length(columns)
    width = min(step * 0.7, 56)

    svg([
      y_ticks(to_y),
      axis_labels(%{label: label}, y),
      for {{name, values}, i} <- Enum.with_index(columns) do
        middle = @left + (i + 0.5) * step

        [
          stack(values, parts, middle - width / 2, width, to_y, name),
          text(middle, @height - @bottom + 16, name, "middle")
        ]
      end,
      legend(for {name, class} <- parts, do: %{name: name, class: class})
    ])
  end

  defp stack(values, parts, x, width, to_y, name) do
    {drawn, _sum} =
      Enum.map_reduce(Enum.zip(values, parts), 0, fn {value, {part, class}}, below ->
        top = to_y.at.(below + value)
        height = max(to_y.at.(below) - top, 0)

        rect = [
          "<rect class=\"fill ",
          class,
          "\" x=\"#{n(x)}\" y=\"#{n(top)}\" width=\"#{n(width)}\" height=\"#{n(height)}\">",
          title("#{name}: #{part} #{Table.number(value)}"),
          "</rect>"
        ]

        {rect, below + value}
      end)

    drawn
  end

  # ---- scales

  defp scale(%{scale: :log}, values, from, to) do
    values = for v <- values, v > 0, do: v
    {low, high} = if values == [], do: {1, 10}, else: Enum.min_max(values)
    low = decade(low)
    high = if high <= low, do: low * 10, else: high * 1.1
    {a, b} = {:math.log(low), :math.log(high)}

    %{
      at: fn v -> from + (:math.log(max(v, low)) - a) / (b - a) * (to - from) end,
      ticks: log_ticks(low, high)
    }
  end

  # Percentiles, each nine as wide as the one before.
  defp scale(%{scale: :percent}, values, from, to) do
    most = Enum.max(values)
    depth = fn v -> -:math.log10(max(1 - v / 100, 1.0e-6)) end
    deepest = max(depth.(most), 1)

    ticks = for v <- [0, 50, 90, 99, 99.9, 99.99, 99.999], depth.(v) <= deepest + 0.01, do: v

    %{at: fn v -> from + min(depth.(v) / deepest, 1.0) * (to - from) end, ticks: ticks}
  end

  defp scale(axis, values, from, to) do
    {low, high} = Enum.min_max(values)
    low = min(axis[:from] || low, low)
    high = if high <= low, do: low + 1, else: high
    step = nice((high - low) / 5)
    first = Float.floor(low / step) * step
    last = Float.ceil(high / step) * step
    count = round((last - first) / step)

    %{
      at: fn v -> from + (v - first) / (last - first) * (to - from) end,
      ticks: for(i <- 0..count, do: first + i * step)
    }
  end

  defp nice(step) do
    magnitude = :math.pow(10, Float.floor(:math.log10(step)))

    case step / magnitude do
      f when f <= 1 -> magnitude
      f when f <= 2 -> 2 * magnitude
      f when f <= 5 -> 5 * magnitude
      _ -> 10 * magnitude
    end
  end

  defp decade(v), do: nice_below(v, :math.pow(10, Float.floor(:math.log10(v))))
  defp nice_below(v, magnitude) when v >= 5 * magnitude, do: 5 * magnitude
  defp nice_below(v, magnitude) when v >= 2 * magnitude, do: 2 * magnitude
  defp nice_below(_v, magnitude), do: magnitude

  defp log_ticks(low, high) do
    first = low |> :math.log10() |> Float.floor() |> trunc()
    last = high |> :math.log10() |> Float.ceil() |> trunc()
    # Where there are many powers of ten, they are enough.
    factors = if last - first > 3, do: [1], else: [1, 2, 5]

    for e <- first..last,
        f <- factors,
        v = f * :math.pow(10, e),
        v >= low * 0.999,
        v <= high,
        do: v
  end

  # ---- what is drawn

  defp svg(content) do
    [
      "<svg viewBox=\"0 0 #{@width} #{@height}\" role=\"img\" preserveAspectRatio=\"xMidYMid meet\">",
      content,
      "</svg>"
    ]
  end

  defp grid(to_x, to_y, x, y) do
    [
      y_ticks(to_y),
      for tick <- to_x.ticks do
        at = to_x.at.(tick)

        [
          "<line class=\"tick\" x1=\"#{n(at)}\" x2=\"#{n(at)}\" y1=\"#{@height - @bottom}\" ",
          "y2=\"#{@height - @bottom + 4}\"/>",
          text(at, @height - @bottom + 16, label(tick), "middle")
        ]
      end,
      axis_labels(x, y)
    ]
  end

  defp y_ticks(to_y) do
    for tick <- to_y.ticks do
      at = to_y.at.(tick)

      [
        "<line class=\"grid\" x1=\"#{@left}\" x2=\"#{@width - @right}\" y1=\"#{n(at)}\" y2=\"#{n(at)}\"/>",
        text(@left - 6, at + 4, label(tick), "end")
      ]
    end
  end

  defp axis_labels(x, y) do
    middle = (@top + @height - @bottom) / 2

    [
      text((@left + @width - @right) / 2, @height - 8, x.label, "middle"),
      "<text class=\"label\" text-anchor=\"middle\" ",
      "transform=\"translate(14 #{n(middle)}) rotate(-90)\">",
      escape(y.label),
      "</text>"
    ]
  end

  defp line(s, to_x, to_y, x, y) do
    at = for {a, b} <- s.points, do: {to_x.at.(a), to_y.at.(b), a, b}
    path = Enum.map_intersperse(at, " ", fn {px, py, _a, _b} -> "#{n(px)},#{n(py)}" end)
    dots? = length(at) <= 60

    [
      "<polyline class=\"line #{s.class}\" points=\"",
      path,
      "\"/>",
      if(dots?, do: Enum.map(at, &dot(&1, s, x, y)), else: [])
    ]
  end

  defp dot({px, py, a, b}, s, x, y) do
    [
      "<circle class=\"dot #{s.class}\" cx=\"#{n(px)}\" cy=\"#{n(py)}\" r=\"3\">",
      title("#{s.name}: #{Table.number(b)} #{y.label}, at #{Table.number(a)} #{x.label}"),
      "</circle>"
    ]
  end

  defp level(y, text) do
    [
      "<line class=\"level\" x1=\"#{@left}\" x2=\"#{@width - @right}\" y1=\"#{n(y)}\" y2=\"#{n(y)}\"/>",
      text(@width - @right - 4, y - 4, text, "end")
    ]
  end

  # One below the other, as they may be close.
  defp mark(x, text, i) do
    [
      "<line class=\"mark\" x1=\"#{n(x)}\" x2=\"#{n(x)}\" y1=\"#{@top}\" y2=\"#{@height - @bottom}\"/>",
      text(x + 4, @top + 12 + 14 * i, text, "start")
    ]
  end

  defp legend(series) do
    {drawn, _x} =
      Enum.map_reduce(series, @left + 10, fn s, x ->
        width = 26 + String.length(s.name) * 7

        item = [
          "<line class=\"line #{s.class}\" x1=\"#{x}\" x2=\"#{x + 16}\" y1=\"10\" y2=\"10\"/>",
          text(x + 20, 14, s.name, "start")
        ]

        {item, x + width}
      end)

    drawn
  end

  defp text(x, y, text, anchor) do
    [
      "<text class=\"label\" x=\"#{n(x)}\" y=\"#{n(y)}\" text-anchor=\"#{anchor}\">",
      escape(text),
      "</text>"
    ]
  end

  defp title(text), do: ["<title>", escape(text), "</title>"]

  @spec escape(String.t()) :: String.t()
  def escape(text) do
    text
    |> String.replace("&", "&amp;")
    |> String.replace("<", "&lt;")
    |> String.replace(">", "&gt;")
    |> String.replace("\"", "&quot;")
  end

  defp label(v) when abs(v) >= 1.0e6, do: short(v / 1.0e6) <> "M"
  defp label(v) when abs(v) >= 1.0e4, do: short(v / 1.0e3) <> "k"
  defp label(v), do: short(v)

  defp short(v) when v == trunc(v), do: v |> trunc() |> Integer.to_string()
  defp short(v), do: :erlang.float_to_binary(v * 1.0, [:compact, decimals: 4])

  defp n(v), do: :erlang.float_to_binary(v * 1.0, [:compact, decimals: 1])
end
