# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load do
  @moduledoc """
  Finds out what a scheduler, or anything else that answers, can take.

      run = GpuSched.Load.run({MyApp.Gpu, "minilm"}, rate: [200, 400, 800], duration: 5_000)
      GpuSched.Load.report!(run, "minilm.html")

  It is measured **from when a request was to be sent**, not from when it was: a target that stalls
  for a second has the requests of that second in its percentiles, each with the time it would have
  waited. A closed loop (and every tool that sends the next request only after the last answer) sends
  nothing meanwhile, and reports one slow request.

  ## What is asked

  The target is `{server, model}`, where the server is what the first argument of `GpuSched.infer/4`
  is, also `{name, node}`; or any function of one argument, which is called in a process for each
  request: it fails where it raises, or answers `:error` or `{:error, _}`.

      GpuSched.Load.run(fn text -> Nx.Serving.batched_run(MyServing, text) end,
        rate: 50, payload: ["one", "two"])

  ## What is found out

  One of

    * `:rate` - an **open loop**: so many requests a second, come what may; a list is a sweep;
    * `:concurrency` - a **closed loop**: so many callers, each of which waits for its answer; a list
      is a sweep. Throughput can be found so; latency as users see it cannot;
    * `:search` - the highest rate at which `:percentile` percent of all requests are answered
      `:within` so many ms: `search: [from: 100, to: 10_000, precision: 0.05]`. It is doubled until
      it fails, then narrowed down. Requests that fail are not in time, and a rate at which they pile
      up does not hold, however long each may take.

  ## Options

    * `:arrivals` - of an open loop: `:poisson` (the default), `:constant`, `{:gamma, cv}` (bursts,
      where the coefficient of variation is above 1), or `{:replay, path}`, a CSV file with a column
      of times (`{:replay, path, column: name}` where it is not called so): played as it was, or at
      `:rate` if there is one;
    * `:duration` - of what is measured, in ms; 10 000, or the length of the trace. Where a trace is
      shorter than this, it ends with its last arrival, and that is said;
    * `:warmup` - what is sent before that, and not counted, in ms; 2000, and 0 for a trace, since its
      beginning is part of it;
    * `:window` - of the series over time, in ms; a second, or a tenth of what is shorter than ten
      seconds. There are at most 600 of them, as each takes 38 KB on each node;
    * `:within`, `:percentile` - the latency in ms that is to be held, and by how many percent; 99;
    * `:payload` - `:model` (the default) makes inputs from the model's description: words, and
      numbers from 0 to 127 or 0.5 to 1, a dimension that varies being `:variable` (1), for those that have
      to be there, or the first where none has; or inputs, a
      list of inputs, a function from a number to inputs, or `{:file, path}` with a map of inputs in
      JSON on each line. `:pool` of them (64), at most 64 MiB of those that are made, are made before
      the run and sent in turn;
    * `:request` - options of each request, as of `GpuSched.infer/4`. A list of them would be what a
      sweep is for: they are the same for all;
    * `:nodes` - who generates the load, each its part of one schedule, and the results are merged;
      `[node()]`. Each needs this library, and must reach the scheduler. They begin at the same time
      by clocks that are compared before, which is right to half a round trip (`"skew_ms"`);
    * `:lanes` - processes on each node that send; half as many as there are schedulers, at most 4;
    * `:spin` - `false` lets them sleep until the timer's next millisecond rather than look at the
      clock: it takes less of the CPU, and requests leave up to 2 ms late;
    * `:max_in_flight` - for each lane; 10 000. What is due beyond that is not sent, and fails; so does
      what has not been sent when the end is as long ago as a request may take;
    * `:think` - what a caller of a closed loop waits after an answer, in ms; 0;
    * `:stability` - a point is stable where its last three windows agree within this on throughput
      and mean latency, the last third of them is no slower than the first, and requests do not pile
      up; 0.1 (beside what is chance);
    * `:max_lateness` - the generator limited a point where 1 % of its requests left later than this,
      in ms; 1.0, and 3.0 without `:spin`; so it did where one of its lanes was busy for more than
      90 % of the time, since answers wait for it then;
    * `:seed` - the same seed makes the same schedule; 1;
    * `:title` - of tables and reports; `:progress` - `false` draws no line while it runs.

  ## What comes of it

  A `GpuSched.Load` with a point for each rate. A point is a map with string keys: `"offered"`,
  `"throughput"` (answers per second, counted when they came), `"sent"`, `"ok"`, `"failed"`, `"errors"`
  (reason → how many), `"why"` (reason → the message of one of those), `"in_time"`, the `GpuSched.Load.Histogram`s, in ns, `"latency"` (of what was
  answered, from when it was due), `"service"` (from when it left), `"queue"`, `"compute"`,
  `"lateness"` (how late it left) and `"failed_after"`, and `"batch"`, in requests; `"windows"`, a list
  over time; `"stable"`, `"growing"` (more was sent than came to an end, so the latencies are only
  those of so short a run; no such rate is what a search finds), and `"limited"`: `nil`, or in words why the **generator**, and not the target,
  decided; `"generator_busy"`, the share of the time that its busiest lane did not
  wait. Where a search ends at such a point, it says so.

  `table/1` shows it, `report!/3` draws it, `write!/2` keeps it (as CSV, or as JSON with all
  histograms), `read!/1` takes the JSON back, `merge/1` adds several runs that were made at the same
  time, and `compare/2` holds two against each other.

  ## The generator

  The BEAM's timers tick in milliseconds, so each lane looks at the clock while the next request is
  less than 2 ms away. That takes a core for each lane: where load is generated on the machine that is
  measured, it is missing there. What the generator itself can do is measured by `./dev bench load`.
  """

  alias GpuSched.Load.{Comparison, Files, Fleet, Histogram, Knee, Options}
  alias GpuSched.Load.{Payload, Point, Progress, Report, Search, Table}

  defstruct [
    :title,
    :target,
    :started_at,
    :machine,
    :arrivals,
    :options,
    :search,
    :knee,
    :broke,
    points: []
  ]

  @type t :: %__MODULE__{
          title: String.t(),
          target: String.t(),
          started_at: String.t(),
          machine: map,
          arrivals: String.t(),
          options: map,
          search: map | nil,
          knee: number | nil,
          broke: %{String.t() => term} | nil,
          points: [map]
        }

  @type target :: {GpuSched.server(), GpuSched.model()} | (term -> term)

  @doc """
  Runs it, and answers when it is done. Raises a `GpuSched.Error` where the target cannot be asked at
  all; where that happens after some points of a sweep or a search, those are in the run, and `:broke`
  says at which load it ended and why. Raises and an `ArgumentError` for options that are wrong; requests that fail are counted.

      iex> run = GpuSched.Load.run(fn _ -> :ok end, rate: 500, payload: %{}, duration: 200, warmup: 0,
      ...>   arrivals: :constant, progress: false)
      iex> [point] = run.points
      iex> {point["sent"], point["ok"], point["failed"]}
      {100, 100, 0}
  """
  @spec run(target, keyword) :: t
  def run(target, opts) do
    opts = Options.check!(opts)
    {kind, name} = target!(target)
    pool = pool!(kind, opts)
    progress = Progress.start(opts)

    measure = fn how ->
      opts = Options.at(opts, how[:rate])
      Progress.point(progress, how, opts)

      with {:ok, raw} <- Fleet.run(opts, pool, kind, [watcher: progress] ++ how) do
        point = Point.new(raw, how, opts)
        telemetry(point, name)
        {:ok, point}
      end
    end

    started = DateTime.utc_now() |> DateTime.truncate(:second) |> DateTime.to_iso8601()

    try do
      {points, search, broke} = measure_all!(opts, measure)

      %__MODULE__{
        title: opts.title || "Load on #{name}",
        target: name,
        started_at: started,
        machine: machine(opts),
        arrivals:
          if(opts.concurrency, do: "closed loop", else: Fleet.arrivals_name(opts.arrivals)),
        options: told(opts),
        search: search,
        knee: Knee.find(points),
        broke: broke,
        points: points
      }
    after
      Progress.stop(progress)
    end
  end

  defp telemetry(point, name) do
    measured = %{
      throughput: point["throughput"],
      p50_ms: Point.number(Point.percentile_ms(point, 50)),
      p99_ms: Point.number(Point.percentile_ms(point, 99)),
      failed: point["failed"]
    }

    about = %{
      target: name,
      mode: point["mode"],
      offered: point["offered"],
      limited: point["limited"]
    }

    GpuSched.Telemetry.execute([:gpu_sched, :load, :point], measured, about)
  end

  defp measure_all!(%{search: search} = opts, measure) when search != nil do
    case Search.run(search, opts.percentile, fn rate -> measure.(rate: rate) end) do
      {:ok, points, outcome} ->
        {points, Map.put(outcome, "within_ms", opts.within), nil}

      {:broke, points, outcome, broke} ->
        {points, Map.put(outcome, "within_ms", opts.within), broke}

      {:error, error} ->
        raise error
    end
  end

  defp measure_all!(opts, measure) do
    key = if opts.concurrency, do: :concurrency, else: :rate

    sweep(List.wrap(opts[key]), key, measure, [])
  end

  # What has been measured is not thrown away for what could not be.
  defp sweep([], _key, _measure, points), do: {Enum.reverse(points), nil, nil}

  defp sweep([value | rest], key, measure, points) do
    case measure.([{key, value}]) do
      {:ok, point} -> sweep(rest, key, measure, [point | points])
      {:error, error} when points == [] -> raise error
      {:error, error} -> {Enum.reverse(points), nil, Search.broke(value, error)}
    end
  end

  defp target!(fun) when is_function(fun, 1), do: {{:call, fun}, "a function"}

  # A scheduler of this node is to be found from the others too.
  defp target!({server, model}) when is_binary(model),
    do: {{:model, reachable(server), model}, "#{model} on #{named(server)}"}

  defp target!(other) do
    raise ArgumentError,
          "the target is {server, model} or a function of one argument; got " <>
            inspect(other, limit: 5)
  end

  # A process says nothing to those who read of it later, or on another machine.
  defp named(pid) when is_pid(pid), do: Atom.to_string(node(pid))
  defp named(server), do: inspect(server)

  defp reachable(name) when is_atom(name) and name != nil, do: {name, node()}
  defp reachable(server), do: server

  defp pool!({:call, _fun}, %{payload: :model}),
    do:
      raise(ArgumentError, "a function has no description to make a payload from: give payload:")

  defp pool!(kind, opts) do
    describe = fn ->
      {:model, server, model} = kind

      case GpuSched.await_ready(server, model) do
        {:ok, description} -> description
        {:error, error} -> raise error
      end
    end

    Payload.pool!(opts.payload, opts.pool, opts.variable, opts.seed, describe)
  end

  defp machine(opts) do
    %{
      "node" => Atom.to_string(node()),
      "schedulers" => System.schedulers_online(),
      "otp" => System.otp_release(),
      "elixir" => System.version(),
      "lanes" => opts.lanes || Fleet.default_lanes(),
      "generators" => Enum.map(opts.nodes, &Atom.to_string/1)
    }
  end

  defp told(opts) do
    %{
      "duration_ms" => opts.duration,
      "warmup_ms" => opts.warmup,
      "window_ms" => opts.window,
      "within_ms" => opts.within,
      "percentile" => opts.percentile,
      "seed" => opts.seed,
      "request" => inspect(opts.request, limit: 20)
    }
  end

  @doc """
  The results as a table for a terminal.
  """
  @spec table(t) :: String.t()
  def table(%__MODULE__{} = run), do: run |> Table.format() |> IO.iodata_to_binary()

  @doc """
  Writes a run to a file: as JSON where its name ends in `.json`, with everything that is known; as
  CSV where it ends in `.csv`, a line for each point; as `report!/3` does where it ends in `.html`.
  """
  @spec write!(t, Path.t()) :: :ok
  def write!(%__MODULE__{} = run, path) do
    case Path.extname(path) do
      ".json" ->
        File.write!(path, Files.json(run))

      ".csv" ->
        File.write!(path, Files.csv(run))

      ".html" ->
        report!(run, path)

      other ->
        raise ArgumentError, "a run is written as .json, .csv or .html; got #{inspect(other)}"
    end
  end

  @doc """
  Reads what `write!/2` wrote as JSON.
  """
  @spec read!(Path.t()) :: t
  def read!(path), do: Files.read!(path)

  @doc """
  Draws a run into one HTML file, which needs nothing else: no script, no style and no image from
  elsewhere. With `against:` another run is drawn beside it and compared.
  """
  @spec report!(t, Path.t(), [{:against, t}]) :: :ok
  def report!(%__MODULE__{} = run, path, opts \\ []),
    do: File.write!(path, Report.html(run, opts[:against]))

  @doc """
  What several runs came to that were made at the same time on one target, by laptops that do not
  know each other: point by point, the loads are added and the histograms merged. They have to be on
  the same target, of the same kind, with as many points and windows, and the same `:within`.
  """
  @spec merge([t]) :: t
  def merge([_ | _] = runs), do: Files.merge!(runs)

  @doc """
  Holds two runs against each other, point by point where both have the same load: a table for a
  terminal. A difference is called one where it is more than twice what the windows of each scatter (of fewer than
  five windows nothing is said). Where
  one fails more often than the other, that is said, and nothing of latencies.
  """
  @spec compare(t, t) :: String.t()
  def compare(%__MODULE__{} = before, %__MODULE__{} = now),
    do: before |> Comparison.new(now) |> Comparison.format() |> IO.iodata_to_binary()

  @doc """
  A percentile of the latency of a point, in ms, counted from when each request was due: of **all**
  that were due. One that failed was never answered, so it is above all that were, and a percentile
  among those that failed is `:infinity` (which is greater than any number). In tables it is `>` what
  is known of it; in CSV `inf`, and in JSON and telemetry `nil`.
  """
  @spec percentile_ms(map, number) :: float | :infinity | nil
  def percentile_ms(%{"latency" => %Histogram{}} = point, percent),
    do: Point.percentile_ms(point, percent)

  defimpl Inspect do
    def inspect(run, _opts),
      do: "#GpuSched.Load<#{run.title}, #{length(run.points)} points>"
  end
end
