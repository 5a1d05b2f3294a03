# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Top do
  # A scheduler in a terminal, drawn anew every second where the caller's group leader is: of a laptop
  # that calls through :erpc, on the laptop.
  @moduledoc false

  alias GpuSched.{Error, Options, Printable, Snapshot}
  alias GpuSched.Load.Table

  @widest 140
  # Where there is no terminal.
  @unlimited {140, 1_000}
  @rows 12
  # So much of a name is always shown.
  @name 10

  @spec run(GenServer.server(), keyword) :: :ok | {:error, Error.t()}
  def run(server, opts) do
    opts = Options.top!(opts)

    with {:ok, first} <- Snapshot.take(server) do
      state = %{
        server: server,
        interval: opts[:interval],
        left: opts[:frames],
        reader: nil
      }

      terminal? = terminal() != nil
      state = if terminal? and state.left == :infinity, do: listen(state), else: state
      if terminal?, do: IO.write("\e[2J")

      try do
        loop(state, first)
      after
        if state.reader, do: Process.exit(elem(state.reader, 0), :kill)
      end
    end
  end

  # How wide and how high it is: asked each time, as it may be made another size.
  defp terminal do
    with {:ok, columns} <- :io.columns(),
         {:ok, rows} <- :io.rows() do
      {min(columns, @widest), rows}
    else
      {:error, _no_terminal} -> nil
    end
  end

  # Enter ends it. Asked by a process of its own, as that waits.
  defp listen(state) do
    leader = Process.group_leader()

    {pid, monitor} =
      spawn_monitor(fn ->
        Process.group_leader(self(), leader)
        IO.gets("")
      end)

    %{state | reader: {pid, monitor}}
  end

  defp loop(%{left: 0}, _before), do: :ok

  defp loop(state, before) do
    monitor = state.reader && elem(state.reader, 1)

    receive do
      {:DOWN, ^monitor, :process, _pid, _reason} when monitor != nil -> :ok
    after
      state.interval ->
        case Snapshot.take(state.server) do
          {:ok, now} ->
            size = terminal()
            draw(state, size, frame(before, now, size || @unlimited))
            loop(%{state | left: less(state.left)}, now)

          {:error, error} ->
            draw(state, terminal(), ["gpu_sched: ", Printable.text(error.message), "\n"])
            loop(%{state | left: less(state.left)}, before)
        end
    end
  end

  defp less(:infinity), do: :infinity
  defp less(n), do: n - 1

  defp draw(_state, nil, text), do: IO.puts(text)

  # From the top left corner, each line to its end, and nothing below: without flickering. What does not
  # fit is not drawn, or the terminal would scroll.
  defp draw(%{left: left}, {columns, rows}, text) do
    {lines, more} =
      text
      |> IO.iodata_to_binary()
      |> String.trim_trailing()
      |> String.split("\n")
      |> Enum.split(max(rows - 1, 1))

    lines = Enum.map(lines, &[String.slice(&1, 0, columns - 1), "\e[K\n"])

    hint =
      Enum.join(
        if(left == :infinity, do: ["Enter ends this"], else: []) ++
          if(more == [], do: [], else: ["#{length(more)} more lines in a higher window"]),
        " · "
      )

    IO.write(["\e[H", lines, String.slice(hint, 0, columns - 1), "\e[K\e[J"])
  end

  # ---- a frame

  @doc false
  @spec frame(Snapshot.t(), Snapshot.t(), {pos_integer, pos_integer}) :: iodata
  def frame(before, now, {columns, rows}) do
    between = Snapshot.between(before, now)
    bar = if columns < 100, do: 10, else: 20

    sections =
      [
        {"DEVICE", ["STATE", "BUSY", "", "BATCHES/S", "RESTARTS", ""], ["RESTARTS"],
         devices(now, between, bar)},
        {"GPU", ["COMPUTES", "", "MEMORY GiB", "TEMP", "POWER W", "NVLINKS", "ERRORS", ""],
         ["NVLINKS", "COMPUTES"], gpus(now, bar)},
        {"MODEL",
         [
           "STATE",
           "ANSWERED/S",
           "QUEUED",
           "RUNNING",
           "p50 ms",
           "p99 ms",
           "BATCH",
           "FAILED/S",
           "REFUSED/S"
         ], ["RUNNING", "p50 ms"], models(now, between)},
        {"JOB", ["STATE", "DEVICES", "DONE", ""], ["DEVICES"], jobs(now)},
        {"CLIENT", ["IN FLIGHT", "PROCESSES"], [], clients(now)}
      ]
      |> Enum.reject(fn {_name, _heads, _less, table} -> table == [] end)

    above = summary(now, between) |> fill(columns)
    most = share(rows - length(above) - 1, Enum.map(sections, &length(elem(&1, 3))))

    [
      Enum.map(above, &[&1, "\n"]),
      "\n",
      for({section, n} <- Enum.zip(sections, most), do: section(section, n, columns))
    ]
  end

  # How many rows each of several tables may have, so that all of them are seen: each has its head and
  # a line below it, and those that are short leave to the others what they do not need.
  defp share(lines, lengths) do
    free = lines - 2 * length(lengths)
    deal(Enum.map(lengths, &{min(&1, @rows), 0}), free)
  end

  defp deal(tables, free) do
    wanting = Enum.count(tables, fn {wanted, given} -> given < wanted end)

    if wanting == 0 or free < wanting do
      # One line at least, and one that says how many there are beside.
      Enum.map(tables, fn {_wanted, given} -> max(given, 1) end)
    else
      tables = Enum.map(tables, fn {wanted, given} -> {wanted, min(given + 1, wanted)} end)
      deal(tables, free - wanting)
    end
  end

  defp summary(now, between) do
    stats = now["stats"]
    all = between.all

    [
      "up #{span(div(stats["uptime_us"] || 0, 1_000_000))}",
      "#{Table.number(all.answered)}/s answered",
      "#{Table.number(all.failed)}/s failed",
      "#{Table.number(all.refused)}/s refused",
      "#{stats["requests"]["queued"]} queued",
      "#{stats["requests"]["running"]} running",
      "p50 #{Table.number(between.latency.p50_ms)} ms",
      "p99 #{Table.number(between.latency.p99_ms)} ms",
      "batch #{Table.number(all.batch)}"
    ]
  end

  # As many on a line as there is room for.
  defp fill(words, columns) do
    words
    |> Enum.reduce([], fn
      word, [line | lines] when byte_size(line) + byte_size(word) + 3 < columns ->
        [line <> " · " <> word | lines]

      word, lines ->
        [word | lines]
    end)
    |> Enum.reverse()
  end

  # Columns that say nothing but words are to the left. Where all of them are too wide, names are
  # shortened, and then some left out: `less` has those that may be missed.
  defp section({name, heads, less, rows}, most, columns) do
    # The line that says so takes one's place.
    {shown, more} =
      if length(rows) > most, do: Enum.split(rows, max(most - 1, 1)), else: {rows, []}

    table = [[name | heads] | Enum.map(shown, fn row -> Enum.map(row, &Printable.line/1) end)]
    table = fit(table, less, columns)
    widths = widths(table)

    [
      for row <- table do
        [first | rest] = Enum.zip(row, widths)
        cells = [pad(first, :left) | Enum.map(rest, &pad(&1, :right))]
        [cells |> Enum.join("  ") |> String.trim_trailing(), "\n"]
      end,
      if(more == [], do: "", else: "and #{length(more)} more\n"),
      "\n"
    ]
  end

  defp widths(table) do
    table
    |> Enum.zip_with(& &1)
    |> Enum.map(fn column -> column |> Enum.map(&String.length/1) |> Enum.max() end)
  end

  # The last column without a head may be cut off: it is what is told beside.
  defp fit([heads | _] = table, less, columns) do
    [name | rest] = widths(table)
    rest = if List.last(heads) == "", do: Enum.drop(rest, -1), else: rest
    over = name + Enum.sum(rest) + 2 * length(rest) - (columns - 1)

    case less do
      _ when over <= 0 -> table
      _ when name - over >= @name -> Enum.map(table, &shorten(&1, name - over))
      [] -> Enum.map(table, &shorten(&1, @name))
      [head | less] -> table |> without(head) |> fit(less, columns)
    end
  end

  defp without([heads | _] = table, head) do
    i = Enum.find_index(heads, &(&1 == head))
    Enum.map(table, &List.delete_at(&1, i))
  end

  # Of a name the end is what tells it from others.
  defp shorten([name | rest], width) do
    if String.length(name) > width,
      do: ["…" <> String.slice(name, -(width - 1), width - 1) | rest],
      else: [name | rest]
  end

  defp pad({text, width}, :left), do: String.pad_trailing(text, width)
  defp pad({text, width}, :right), do: String.pad_leading(text, width)

  defp devices(now, between, bar) do
    for device <- now["devices"], device["state"] != "absent" do
      rates = between.devices[device["name"]] || %{busy: 0.0, batches: 0.0}

      [
        device["name"],
        device["state"],
        bar(rates.busy, bar),
        "#{round(rates.busy * 100)} %",
        Table.number(rates.batches),
        Integer.to_string(device["restarts"] || 0),
        device["reason"] || ""
      ]
    end
  end

  # One that is several devices is told once. What is amiss stands at the end.
  defp gpus(now, bar) do
    gpus = for %{"readings" => readings} = device <- now["devices"], do: {device, readings}

    for {device, r} <- Enum.uniq_by(gpus, fn {device, r} -> r["uuid"] || device["name"] end),
        map_size(r) > 1 or device["state"] == "up" do
      [
        device["name"],
        if(r["utilization_percent"], do: bar(r["utilization_percent"] / 100, bar), else: ""),
        with_unit(r["utilization_percent"], " %"),
        of(r["memory_used_bytes"], r["memory_total_bytes"], &Float.round(&1 / 1_073_741_824, 1)),
        with_unit(r["temperature_c"], " °C"),
        of(r["power_mw"], r["power_limit_mw"], &round(&1 / 1_000)),
        of(r["links_up"], r["links"], & &1),
        errors(r),
        Enum.join(slow(r["throttle"]) ++ List.wrap(r["reason"]), " ")
      ]
    end
  end

  defp with_unit(nil, _unit), do: ""
  defp with_unit(n, unit), do: "#{n}#{unit}"

  defp of(nil, _all, _fun), do: ""
  defp of(some, nil, fun), do: "#{fun.(some)}"
  defp of(some, all, fun), do: "#{fun.(some)}/#{fun.(all)}"

  defp errors(r) do
    xids =
      if (r["xid_count"] || 0) > 0, do: ["#{r["xid_count"]} (Xid #{r["last_xid"]})"], else: []

    ecc = if (r["ecc_uncorrected"] || 0) > 0, do: ["#{r["ecc_uncorrected"]} ECC"], else: []
    Enum.join(xids ++ ecc, ", ")
  end

  defp slow(nil), do: []
  defp slow([]), do: []
  defp slow(why), do: ["slowed down: " <> Enum.join(why, ", ")]

  defp bar(share, width) do
    full = share |> max(0) |> min(1) |> Kernel.*(width) |> round()
    String.duplicate("█", full) <> String.duplicate("░", width - full)
  end

  defp models(now, between) do
    for model <- now["models"], rates = between.models[model["name"]], rates != nil do
      [
        model["name"],
        model["state"],
        Table.number(rates.answered),
        Integer.to_string(model["queued"] || 0),
        Integer.to_string(model["running"] || 0),
        Table.number(rates.p50_ms),
        Table.number(rates.p99_ms),
        Table.number(rates.batch),
        Table.number(rates.failed),
        Table.number(rates.refused)
      ]
    end
  end

  # The last first, and those that run before those that ended.
  defp jobs(now) do
    {ended, live} = now["jobs"] |> Enum.reverse() |> Enum.split_with(&(&1["state"] == "ended"))

    for job <- live ++ Enum.take(ended, 3) do
      about = job["error"] || job["why"] || job["message"] || ""

      [
        "#{job["job"]} #{job["name"]}",
        job["state"],
        Enum.join(job["devices"] || [], " "),
        done(job),
        about
      ]
    end
  end

  defp done(%{"done" => done, "total" => total}) when is_number(total) and total > 0,
    do: "#{done}/#{total}"

  defp done(%{"done" => done}) when is_number(done) and done > 0, do: "#{done}"
  defp done(_job), do: ""

  defp clients(now) do
    for client <- now["clients"] do
      [
        client["node"],
        Integer.to_string(client["in_flight"]),
        Integer.to_string(client["processes"])
      ]
    end
  end

  defp span(s) when s < 120, do: "#{s} s"
  defp span(s) when s < 7_200, do: "#{div(s, 60)} min"
  defp span(s) when s < 172_800, do: "#{div(s, 3_600)} h"
  defp span(s), do: "#{div(s, 86_400)} d"
end
