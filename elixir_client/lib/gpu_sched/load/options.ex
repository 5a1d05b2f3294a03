# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Options do
  # The options of a run, checked before anything is sent.
  @moduledoc false

  alias GpuSched.Load.Trace

  @defaults [
    rate: nil,
    concurrency: nil,
    search: nil,
    arrivals: :poisson,
    duration: nil,
    warmup: nil,
    window: nil,
    within: nil,
    percentile: 99,
    payload: :model,
    pool: 64,
    variable: 1,
    request: [],
    nodes: nil,
    lanes: nil,
    spin: true,
    max_in_flight: 10_000,
    max_lateness: nil,
    stability: 0.1,
    think: 0,
    seed: 1,
    title: nil,
    progress: true
  ]

  @search [from: 10, to: nil, precision: 0.05, most: 24]

  @default_duration 10_000
  # A trace has what it has: what came before it is not known, and its beginning is part of it.
  @default_warmup 2_000
  # In ms: who sleeps is up to two later than the clock, and is told to be.
  @late_asleep 3.0
  # Each keeps a histogram, on each node.
  @most_windows 600

  @spec check!(keyword) :: map
  def check!(opts) do
    unless Keyword.keyword?(opts),
      do: raise(ArgumentError, "options are a keyword list; got #{inspect(opts, limit: 5)}")

    known = Keyword.keys(@defaults)
    for {key, _value} <- opts, key not in known, do: GpuSched.Options.unknown!(key, known)
    for {key, value} <- opts, do: check!(key, value)

    @defaults
    |> Keyword.merge(opts)
    |> Map.new()
    |> Map.update!(:nodes, &(&1 || [node()]))
    |> Map.update!(:search, &search!/1)
    |> Map.update!(:arrivals, &arrivals!/1)
    |> what!()
    |> limit!()
    |> warmup()
    |> Map.update!(:max_lateness, &(&1 || if(opts[:spin] == false, do: @late_asleep, else: 1.0)))
    |> asked()
  end

  # Exactly one thing is to be found out.
  defp what!(opts) do
    case for key <- [:rate, :concurrency, :search], opts[key] != nil, do: key do
      [_one] ->
        opts

      [] when elem(opts.arrivals, 0) == :replay ->
        %{opts | rate: [:recorded]}

      [] ->
        raise ArgumentError,
              "say what to find out: rate: (one, or a list), concurrency: (one, or a list) or search:"

      several ->
        raise ArgumentError,
              "one of #{Enum.map_join(several, ", ", &inspect/1)} at a time"
    end
  end

  defp limit!(%{search: search, within: nil}) when search != nil,
    do: raise(ArgumentError, "a search needs within:, the latency in ms that is to be held")

  defp limit!(opts), do: opts

  defp warmup(%{warmup: nil, arrivals: {:replay, _times}} = opts), do: %{opts | warmup: 0}
  defp warmup(%{warmup: nil} = opts), do: %{opts | warmup: @default_warmup}
  defp warmup(opts), do: opts

  # What was asked for, since how long a trace takes depends on the rate.
  defp asked(opts) do
    opts = Map.put(opts, :asked, Map.take(opts, [:duration, :window]))
    rates = if opts.search, do: [opts.search.from], else: List.wrap(opts.rate)
    # All of them, so that what cannot be is found before anything is sent.
    List.first(for(rate <- rates, do: at(opts, rate)), at(opts, nil))
  end

  # With the times of a run at that rate, in ms: `duration` of what is measured in `windows` of
  # `window`, the last of which may be shorter; `ended` where a trace has less than was asked for.
  @spec at(map, number | :recorded | nil) :: map
  def at(%{asked: asked} = opts, rate) do
    left = left!(opts, rate)
    duration = min(asked.duration || left || @default_duration, left || :infinity)
    window = asked.window || default_window(duration)
    n = div(duration + window - 1, window)

    if n > @most_windows do
      raise ArgumentError,
            "at most #{@most_windows} windows are kept; #{duration} ms in windows of #{window} ms are #{n}"
    end

    ended = if asked.duration && asked.duration > duration, do: duration
    duration = if left, do: duration, else: n * window
    Map.merge(opts, %{duration: duration, window: window, windows: n, ended: ended})
  end

  defp default_window(duration) when duration < 10_000, do: max(div(duration, 10), 10)

  defp default_window(duration),
    do: max(1_000, div(duration + @most_windows - 1, @most_windows))

  # What there is of a trace after the warm-up, the last arrival being part of it.
  defp left!(%{arrivals: {:replay, times}, warmup: warmup}, rate) do
    rate = if is_number(rate), do: rate
    whole = trunc((times |> Trace.at_rate(rate) |> List.last()) * 1_000) + 1

    if whole <= warmup do
      raise ArgumentError,
            "the trace is over after #{whole} ms, and all of that would be warm-up (#{warmup} ms)"
    end

    whole - warmup
  end

  defp left!(_opts, _rate), do: nil

  defp search!(nil), do: nil

  defp search!(opts) do
    for {key, _} <- opts,
        not Keyword.has_key?(@search, key),
        do: GpuSched.Options.unknown!(key, Keyword.keys(@search))

    search = @search |> Keyword.merge(opts) |> Map.new()

    unless is_number(search.from) and search.from > 0,
      do: wrong!(:search, opts, "a rate to begin with, as search: [from: 100]")

    unless is_number(search.precision) and search.precision > 0,
      do: wrong!(:search, opts, "how near it is to come, as search: [precision: 0.05]")

    search
  end

  defp arrivals!({:replay, path}) when is_binary(path), do: {:replay, Trace.read!(path)}

  defp arrivals!({:replay, path, opts}) when is_binary(path),
    do: {:replay, Trace.read!(path, opts[:column])}

  defp arrivals!(:constant), do: {:constant}
  defp arrivals!(:poisson), do: {:poisson}
  defp arrivals!(other), do: other

  # As the schedule takes them.
  def arrivals({name}), do: name
  def arrivals(other), do: other

  defp check!(:rate, value) do
    unless Enum.all?(List.wrap(value), &(is_number(&1) and &1 > 0)) and value != [],
      do: wrong!(:rate, value, "requests per second: a number above 0, or a list of such")
  end

  defp check!(:concurrency, value) do
    unless Enum.all?(List.wrap(value), &(is_integer(&1) and &1 > 0)) and value != [],
      do: wrong!(:concurrency, value, "how many callers: an integer above 0, or a list of such")
  end

  defp check!(:search, value) do
    unless value == nil or Keyword.keyword?(value),
      do: wrong!(:search, value, "a keyword list, as [from: 100]")
  end

  defp check!(:arrivals, kind) when kind in [:constant, :poisson], do: :ok
  defp check!(:arrivals, {:gamma, cv}) when is_number(cv) and cv >= 0 and cv <= 100, do: :ok
  defp check!(:arrivals, {:replay, path}) when is_binary(path), do: :ok

  defp check!(:arrivals, {:replay, path, column: column})
       when is_binary(path) and is_binary(column),
       do: :ok

  defp check!(:arrivals, value) do
    wrong!(
      :arrivals,
      value,
      ":constant, :poisson, {:gamma, cv}, {:replay, path} or {:replay, path, column: name}"
    )
  end

  defp check!(:payload, value)
       when value == :model or is_map(value) or is_list(value) or is_function(value, 1),
       do: :ok

  defp check!(:payload, {:file, path}) when is_binary(path), do: :ok

  defp check!(:payload, value) do
    wrong!(
      :payload,
      value,
      ":model, a map of inputs, a list of such, a function of a number, or {:file, path}"
    )
  end

  # The error is that of a request.
  defp check!(:request, value) do
    GpuSched.Options.infer!(value)
    :ok
  end

  defp check!(key, value)
       when key in [:duration, :window, :pool, :variable, :lanes, :max_in_flight] do
    unless value == nil or (is_integer(value) and value > 0),
      do: wrong!(key, value, "a positive integer")
  end

  defp check!(key, value) when key in [:warmup, :think] do
    unless is_integer(value) and value >= 0, do: wrong!(key, value, "milliseconds")
  end

  defp check!(:within, value) do
    unless value == nil or (is_number(value) and value > 0),
      do: wrong!(:within, value, "a latency in ms")
  end

  defp check!(:percentile, value) do
    unless is_number(value) and value > 0 and value < 100,
      do: wrong!(:percentile, value, "a number between 0 and 100")
  end

  defp check!(key, value) when key in [:max_lateness, :stability] do
    unless is_number(value) and value > 0, do: wrong!(key, value, "a number above 0")
  end

  defp check!(:nodes, value) do
    unless value == nil or (is_list(value) and value != [] and Enum.all?(value, &is_atom/1)),
      do: wrong!(:nodes, value, "a list of nodes")
  end

  defp check!(key, value) when key in [:spin, :progress] do
    unless is_boolean(value), do: wrong!(key, value, "true or false")
  end

  defp check!(:seed, value) do
    unless is_integer(value), do: wrong!(:seed, value, "an integer")
  end

  defp check!(:title, value) do
    unless value == nil or is_binary(value), do: wrong!(:title, value, "a string")
  end

  @spec wrong!(atom, term, String.t()) :: no_return
  defp wrong!(key, value, wanted) do
    raise ArgumentError,
          "the option #{inspect(key)} takes #{wanted}; got " <>
            inspect(value, limit: 5, printable_limit: 80)
  end
end
