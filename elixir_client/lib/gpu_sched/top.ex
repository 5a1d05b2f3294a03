# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Top do
  # A scheduler in a terminal, drawn anew every second where the caller's group leader is: of a laptop
  # that calls through :erpc, on the laptop.
  @moduledoc false

  alias GpuSched.{Error, Printable, Snapshot}
  alias GpuSched.Load.Table

  @widest 140
  @bar 20
  @rows 12

  @spec run(GenServer.server(), keyword) :: :ok | {:error, Error.t()}
  def run(server, opts) do
    opts = options!(opts)
    columns = columns()

    with {:ok, first} <- Snapshot.take(server) do
      state = %{
        server: server,
        columns: columns,
        interval: opts[:interval],
        left: opts[:frames],
        reader: nil,
        lines: 0
      }

      state = if columns != nil and state.left == :infinity, do: listen(state), else: state
      if columns, do: IO.write("\e[2J")

      try do
        loop(state, first)
      after
        if state.reader, do: Process.exit(elem(state.reader, 0), :kill)
      end
    end
  end

  defp options!(opts) do
    for {key, value} <- opts do
      ok? =
        case key do
          :interval -> is_integer(value) and value > 0
          :frames -> value == :infinity or (is_integer(value) and value > 0)
          _ -> GpuSched.Options.unknown!(key, [:interval, :frames])
        end

      unless ok?,
        do:
          raise(
            ArgumentError,
            "the option #{inspect(key)} takes a positive integer; got #{inspect(value)}"
          )
    end

    Keyword.merge([interval: 1_000, frames: :infinity], opts)
  end

  defp columns do
    case :io.columns() do
      {:ok, n} -> min(n, @widest)
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
            text = frame(before, now, state.columns)
            draw(state, text)
            loop(%{state | left: less(state.left)}, now)

          {:error, error} ->
            draw(state, ["gpu_sched: ", Printable.text(error.message), "\n"])
            loop(%{state | left: less(state.left)}, before)
        end
    end
  end

  defp less(:infinity), do: :infinity
  defp less(n), do: n - 1

  defp draw(%{columns: nil}, text), do: IO.puts(text)

  # From the top left corner, each line to its end, and nothing below: without flickering.
  defp draw(%{columns: columns, left: left}, text) do
    lines =
      text
      |> IO.iodata_to_binary()
      |> String.split("\n")
      |> Enum.map(&[String.slice(&1, 0, columns - 1), "\e[K\n"])

    hint = if left == :infinity, do: "Enter ends this\e[K", else: ""
    IO.write(["\e[H", lines, hint, "\e[J"])
  end

  # ---- a frame

  @doc false
  @spec frame(Snapshot.t(), Snapshot.t(), pos_integer | nil) :: iodata
  def frame(before, now, _columns) do
    between = Snapshot.between(before, now)

    [
      summary(now, between),
      "\n",
      section(
        "DEVICE",
        ["STATE", "BUSY", "", "BATCHES/S", "RESTARTS", ""],
        devices(now, between)
      ),
      section(
        "GPU",
        ["COMPUTES", "", "MEMORY GiB", "TEMP", "POWER W", "NVLINKS", "ERRORS", ""],
        gpus(now)
      ),
      section(
        "MODEL",
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
        ],
        models(now, between)
      ),
      section("JOB", ["STATE", "DEVICES", "DONE", ""], jobs(now)),
      section("CLIENT", ["IN FLIGHT", "PROCESSES"], clients(now))
    ]
  end

  defp summary(now, between) do
    stats = now["stats"]
    all = between.all

    [
      "up #{span(div(stats["uptime_us"] || 0, 1_000_000))} · ",
      "#{Table.number(all.answered)}/s answered · #{Table.number(all.failed)}/s failed · ",
      "#{Table.number(all.refused)}/s refused · #{stats["requests"]["queued"]} queued · ",
      "#{stats["requests"]["running"]} running · ",
      "p50 #{Table.number(between.latency.p50_ms)} ms · p99 #{Table.number(between.latency.p99_ms)} ms · ",
      "batch #{Table.number(all.batch)}\n"
    ]
  end

  defp section(_name, _heads, []), do: []

  # Columns that say nothing but words are to the left.
  defp section(name, heads, rows) do
    {shown, more} = Enum.split(rows, @rows)
    table = [[name | heads] | Enum.map(shown, fn row -> Enum.map(row, &Printable.line/1) end)]

    widths =
      table
      |> Enum.zip_with(& &1)
      |> Enum.map(fn column -> column |> Enum.map(&String.length/1) |> Enum.max() end)

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

  defp pad({text, width}, :left), do: String.pad_trailing(text, width)
  defp pad({text, width}, :right), do: String.pad_leading(text, width)

  defp devices(now, between) do
    for device <- now["devices"], device["state"] != "absent" do
      rates = between.devices[device["name"]] || %{busy: 0.0, batches: 0.0}

      [
        device["name"],
        device["state"],
        bar(rates.busy),
        "#{round(rates.busy * 100)} %",
        Table.number(rates.batches),
        Integer.to_string(device["restarts"] || 0),
        device["reason"] || ""
      ]
    end
  end

  # One that is several devices is told once. What is amiss stands at the end.
  defp gpus(now) do
    gpus = for %{"readings" => readings} = device <- now["devices"], do: {device, readings}

    for {device, r} <- Enum.uniq_by(gpus, fn {device, r} -> r["uuid"] || device["name"] end),
        map_size(r) > 1 or device["state"] == "up" do
      [
        device["name"],
        if(r["utilization_percent"], do: bar(r["utilization_percent"] / 100), else: ""),
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

  defp bar(share) do
    full = round(share * @bar)
    String.duplicate("█", full) <> String.duplicate("░", @bar - full)
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
