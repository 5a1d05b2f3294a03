# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Script do
  # ./dev load: GpuSched.Load from a shell, on a scheduler of its own or on one that is running.
  @moduledoc false

  alias GpuSched.{Load, Printable}

  @usage """
  usage: ./dev load [--host] MODEL --rate R[,R…] | --concurrency N[,N…] | --search FROM[:TO] [options]
         ./dev load compare BEFORE.json NOW.json [--html FILE]
         ./dev load merge A.json B.json… [--json FILE] [--csv FILE] [--html FILE]

  MODEL is loaded into a scheduler that lives as long as the run: a folder, or "synthetic", or
  "minilm" (the weights that ./dev weights fetches). With --host it is the name of a model on the host
  that ./dev host runs, and with --node NAME@HOST on any other node.

    --rate R,…           an open loop: so many requests a second; several are a sweep
    --concurrency N,…    a closed loop: so many callers
    --search FROM[:TO]   the highest rate of which --percentile percent are answered --within ms
    --within MS          the latency to be held
    --percentile P       by how many percent (99)
    --precision X        how near a search comes (0.05)
    --arrivals A         poisson (default), constant, gamma:CV, replay:FILE.csv
    --duration S         of what is measured (10)
    --warmup S           before that (2; of a trace 0)
    --payload FILE       a line of JSON for each: a map of inputs; else made from the model
    --variable N         the length of dimensions that vary (1)
    --timeout MS         of a request (5000)
    --seed N             the same seed is the same schedule (1)
    --lanes N            processes that send
    --no-spin            sleep between requests: less of the CPU, up to 2 ms late
    --title TEXT         of what is written
    --json, --csv, --html FILE    write it there
    --against FILE.json  compare with a run that was written before
    --quiet              no line while it runs

  of the scheduler that is started:

    --parameter NAME=VALUE    for the model; several may be given
    --max-batch N             requests in a batch
    --cpu-devices N           (1)

  of a node: --server NAME (GpuSched)

  The exit code is 0, 1 where the target cannot be asked, or could not any more and not all was
  measured, 2 where the generator limited a point, 64 where the command is not understood.
  """

  @switches [
    rate: :string,
    concurrency: :string,
    search: :string,
    within: :float,
    percentile: :float,
    precision: :float,
    arrivals: :string,
    duration: :float,
    warmup: :float,
    payload: :string,
    variable: :integer,
    timeout: :integer,
    seed: :integer,
    lanes: :integer,
    spin: :boolean,
    title: :string,
    json: :string,
    csv: :string,
    html: :string,
    against: :string,
    quiet: :boolean,
    parameter: :keep,
    max_batch: :integer,
    cpu_devices: :integer,
    node: :string,
    server: :string,
    help: :boolean
  ]

  # The exit code.
  @spec main([String.t()]) :: 0..255
  def main(args) do
    {opts, words, wrong} = OptionParser.parse(args, strict: @switches)

    cond do
      opts[:help] ->
        print(@usage)

      wrong != [] ->
        misunderstood("#{wrong |> hd() |> elem(0)} is not an option, or has no such value")

      true ->
        command(words, opts)
    end
  rescue
    error in ArgumentError -> misunderstood(Exception.message(error))
    error in File.Error -> misunderstood(Exception.message(error))
    error in GpuSched.Error -> failed(Exception.message(error))
  end

  defp print(text) do
    IO.write(text)
    0
  end

  defp misunderstood(text) do
    IO.puts(:stderr, "load: #{text}; --help says what there is")
    64
  end

  defp failed(text) do
    IO.puts(:stderr, "load: #{text}")
    1
  end

  defp command(["compare", before, now], opts) do
    {before, now} = {Load.read!(before), Load.read!(now)}
    IO.puts(Load.compare(before, now))
    if opts[:html], do: Load.report!(now, opts[:html], against: before)
    0
  end

  defp command(["merge" | [_, _ | _] = paths], opts),
    do: paths |> Enum.map(&Load.read!/1) |> Load.merge() |> show(opts)

  defp command([word | _], _opts) when word in ["compare", "merge"],
    do: misunderstood("#{word} takes two files that were written with --json")

  defp command([model], opts), do: load(model, opts)
  defp command([], _opts), do: misunderstood("say which model")
  defp command([_, word | _], _opts), do: misunderstood("#{inspect(word)} is one word too many")

  # ---- a run

  defp load(model, opts) do
    options = options(opts)

    with_target(model, opts, fn target -> target |> Load.run(options) |> show(opts) end)
  end

  defp show(run, opts) do
    IO.puts(Load.table(run))
    for key <- [:json, :csv], path = opts[key], do: Load.write!(run, path)
    against = opts[:against] && Load.read!(opts[:against])
    if against, do: IO.puts(Load.compare(against, run))
    if opts[:html], do: Load.report!(run, opts[:html], against: against)

    cond do
      run.broke -> failed("not all was measured: it ended at #{broke(run.broke)}")
      Enum.any?(run.points, & &1["limited"]) -> 2
      true -> 0
    end
  end

  defp broke(%{"offered" => load, "error" => error}),
    do: Printable.line("#{load || "the trace"}: #{error}")

  defp options(opts) do
    Enum.flat_map(opts, fn
      {:rate, text} ->
        [rate: numbers!(text)]

      {:concurrency, text} ->
        [concurrency: Enum.map(numbers!(text), &trunc/1)]

      {:search, text} ->
        [search: search!(text, opts[:precision])]

      {:arrivals, text} ->
        [arrivals: arrivals!(text)]

      {:duration, s} ->
        [duration: round(s * 1_000)]

      {:warmup, s} ->
        [warmup: round(s * 1_000)]

      {:payload, path} ->
        [payload: {:file, path}]

      {:timeout, ms} ->
        [request: [timeout: ms]]

      {:quiet, quiet} ->
        [progress: not quiet]

      {key, value} when key in [:within, :percentile, :variable, :seed, :lanes, :spin, :title] ->
        [{key, value}]

      _other ->
        []
    end)
  end

  defp numbers!(text), do: text |> String.split(",") |> Enum.map(&number!/1)

  defp number!(text) do
    case Integer.parse(text) do
      {n, ""} ->
        n

      _ ->
        case Float.parse(text) do
          {x, ""} -> x
          _ -> raise ArgumentError, "#{inspect(text)} is no number"
        end
    end
  end

  defp search!(text, precision) do
    limits =
      case String.split(text, ":") do
        [from] -> [from: number!(from)]
        [from, to] -> [from: number!(from), to: number!(to)]
        _ -> raise ArgumentError, "--search takes FROM or FROM:TO"
      end

    if precision, do: limits ++ [precision: precision], else: limits
  end

  defp arrivals!("poisson"), do: :poisson
  defp arrivals!("constant"), do: :constant
  defp arrivals!("gamma:" <> cv), do: {:gamma, number!(cv)}
  defp arrivals!("replay:" <> path), do: {:replay, path}

  defp arrivals!(other) do
    raise ArgumentError,
          "--arrivals takes poisson, constant, gamma:CV or replay:FILE; got #{inspect(other)}"
  end

  # ---- what it is sent to

  defp with_target(model, opts, fun) do
    case opts[:node] do
      nil -> with_own(model, opts, fun)
      name -> with_node(model, String.to_atom(name), opts, fun)
    end
  end

  defp with_node(model, node, opts, fun) do
    server = opts |> Keyword.get(:server, "GpuSched") |> server_name()

    cond do
      not Node.alive?() ->
        failed("this node has no name: start it with --name or --sname")

      not Node.connect(node) ->
        failed("#{node} cannot be reached (its name, the cookie, the network)")

      true ->
        fun.({{server, node}, model})
    end
  end

  defp server_name(":" <> name), do: String.to_atom(name)
  defp server_name(name), do: Module.concat([name])

  defp with_own(model, opts, fun) do
    name = if File.dir?(model), do: Path.basename(model), else: model

    options = [
      name: GpuSched.Load.Target,
      models: [[name: name] ++ source(model) ++ limits(opts)],
      port_options: [cpu_devices: opts[:cpu_devices] || 1]
    ]

    # What it says of a failed model is what await_ready/2 answers, too.
    case GpuSched.start_link(options) do
      {:ok, server} ->
        try do
          {:ok, _model} = ready!(GpuSched.await_ready(server, name, timeout: 300_000))
          fun.({server, name})
        after
          GenServer.stop(server)
        end

      {:error, error} ->
        raise error
    end
  end

  defp ready!({:ok, model}), do: {:ok, model}
  defp ready!({:error, error}), do: raise(error)

  defp source("synthetic"), do: [engine: "synthetic"]

  defp source("minilm") do
    case System.get_env("GPU_SCHED_MINILM") do
      nil ->
        raise ArgumentError, "the weights of minilm are not there: ./dev weights fetches them"

      path ->
        [path: path]
    end
  end

  defp source(path) do
    unless File.dir?(path) do
      raise ArgumentError,
            "a model is a folder, \"synthetic\" or \"minilm\", or with --node or --host one that is " <>
              "loaded there; got #{inspect(path)}"
    end

    [path: Path.expand(path)]
  end

  defp limits(opts) do
    parameters = for {:parameter, text} <- opts, into: %{}, do: parameter!(text)

    if(parameters == %{}, do: [], else: [parameters: parameters]) ++
      if(opts[:max_batch], do: [max_batch_requests: opts[:max_batch]], else: [])
  end

  defp parameter!(text) do
    case String.split(text, "=", parts: 2) do
      [name, value] -> {name, value!(value)}
      _ -> raise ArgumentError, "--parameter takes NAME=VALUE; got #{inspect(text)}"
    end
  end

  defp value!("true"), do: true
  defp value!("false"), do: false

  defp value!(text) do
    number!(text)
  rescue
    ArgumentError -> text
  end
end
