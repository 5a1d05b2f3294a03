# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.MetricsTest do
  # The metrics, read as Prometheus does.
  use ExUnit.Case, async: false

  import GpuSched.FakePort, only: [until: 1]

  alias GpuSched.{Metrics, RealPort, Snapshot, TestNode}

  @moduletag capture_log: true, timeout: 120_000

  # The text as {types, samples}: name → type, and {name, labels} → value. Anything that is not of the
  # format fails.
  defp read(text) do
    text = IO.iodata_to_binary(text)
    assert String.ends_with?(text, "\n")

    text
    |> String.split("\n", trim: true)
    |> Enum.reduce({%{}, %{}}, fn
      "# HELP " <> rest, {types, samples} ->
        [name, help] = String.split(rest, " ", parts: 2)
        assert name =~ ~r/^[a-z][a-z0-9_]*$/ and help != ""
        {types, samples}

      "# TYPE " <> rest, {types, samples} ->
        [name, type] = String.split(rest, " ")
        assert type in ~w(counter gauge histogram)
        refute is_map_key(types, name)
        {Map.put(types, name, type), samples}

      line, {types, samples} ->
        [_, name, _, labels, value] = Regex.run(~r/^([a-z_0-9]+)(\{(.*)\})? (\S+)$/, line)
        base = String.replace(name, ~r/_(bucket|sum|count)$/, "")
        assert is_map_key(types, name) or types[base] == "histogram"
        {value, ""} = Float.parse(value)
        key = {name, labels(labels)}
        refute is_map_key(samples, key)
        {types, Map.put(samples, key, value)}
    end)
  end

  defp labels(""), do: %{}

  defp labels(text) do
    pairs = Regex.scan(~r/([a-z_]+)="((?:[^"\\]|\\.)*)"(?:,|$)/, text)
    assert pairs |> Enum.map(&hd/1) |> Enum.join() == text
    Map.new(pairs, fn [_, key, value] -> {key, value} end)
  end

  describe "of the real port" do
    if reason = RealPort.missing(), do: @describetag(skip: reason)

    test "say what stats says, under the names that dashboards know" do
      slow = [
        name: "slow",
        engine: "synthetic",
        parameters: [a_us: 100_000],
        max_batch_requests: 1,
        queue_limit: 1
      ]

      {server, _pid} = RealPort.start(models: [[name: "noop", engine: "synthetic"], slow])
      {:ok, _} = GpuSched.await_ready(server)
      for _ <- 1..7, do: {:ok, _} = GpuSched.infer(server, "noop", %{data: [1]})
      many = for _ <- 1..6, do: GpuSched.async(server, "slow", %{data: [1]}, timeout: 60_000)
      refused = Enum.count(GpuSched.await_many(many), &match?({:error, _}, &1))
      assert refused > 0
      {:ok, text} = Metrics.text(server)
      {:ok, stats} = GpuSched.stats(server)
      counters = stats["models"]["noop"]
      {types, samples} = read(text)
      model = %{"model" => "noop", "version" => "1"}

      for {name, value} <- [
            {"nv_inference_request_success", 7},
            {"nv_inference_count", 7},
            {"nv_inference_exec_count", counters["batches"]},
            {"nv_inference_pending_request_count", 0},
            {"nv_inference_queue_duration_us", counters["queue_us"]},
            {"nv_inference_compute_infer_duration_us", counters["compute_us"]},
            {"nv_inference_request_duration_us", counters["queue_us"] + counters["compute_us"]}
          ] do
        assert samples[{name, model}] == value, name
      end

      rejected = %{"model" => "slow", "version" => "1", "reason" => "REJECTED"}
      assert samples[{"nv_inference_request_failure", rejected}] == refused
      assert samples[{"nv_inference_request_failure", Map.put(model, "reason", "BACKEND")}] == 0
      assert samples[{"gpu_sched_refused_total", %{"at" => "port"}}] == refused
      assert samples[{"gpu_sched_refused_total", %{"at" => "credit"}}] == 0
      assert types["gpu_sched_refused_total"] == "counter"

      for state <- ["pending", "running"],
          do: assert(samples[{"gpu_sched_jobs", %{"state" => state}}] == 0)

      assert types["nv_inference_request_success"] == "counter"
      assert types["nv_inference_pending_request_count"] == "gauge"
      assert samples[{"gpu_sched_port_bad_frames_total", %{}}] == 0

      assert samples[
               {"gpu_sched_device_up",
                %{"device" => "cpu:0", "kind" => "cpu", "model" => device_model(server)}}
             ] == 1
    end

    test "count those that had no credit" do
      slow = [name: "slow", engine: "synthetic", parameters: [a_us: 10_000_000]]
      {server, pid} = RealPort.start(models: [slow])
      {:ok, _} = GpuSched.await_ready(server)
      {:ok, before} = Snapshot.take(server)
      counters = :sys.get_state(pid).counters
      # As if so many had come while others were under way.
      for _ <- 1..3, do: GpuSched.Admission.count_refused(counters)
      {:ok, text} = Metrics.text(server)
      {_types, samples} = read(text)
      assert samples[{"gpu_sched_refused_total", %{"at" => "credit"}}] == 3
      assert samples[{"gpu_sched_refused_total", %{"at" => "port"}}] == 0
      {:ok, now} = Snapshot.take(server)
      now = Map.put(now, "at_ms", before["at_ms"] + 1_000)
      assert Snapshot.between(before, now).all.refused == 3.0
    end

    test "are read back whatever a device calls itself" do
      model = ~S(a"b\c},d="e" ) <> "\nline two\\"
      {server, _pid} = RealPort.start()
      {:ok, _} = GpuSched.await_ready(server)
      {:ok, stats} = GpuSched.stats(server)
      {:ok, histograms} = GpuSched.histograms(server)
      {:ok, [device | _]} = GpuSched.devices(server)
      text = Metrics.write(stats, histograms, [%{device | "model" => model}], [])
      {_types, samples} = read(text)
      written = for {{"gpu_sched_device_up", labels}, 1.0} <- samples, do: labels["model"]
      assert Enum.map(written, &unescape/1) == [model]
    end

    test "of another sched-port count from nothing, and rates are of what it did" do
      {server, pid} = RealPort.start()
      {:ok, _} = GpuSched.await_ready(server)

      infer = fn n ->
        for _ <- 1..n, do: {:ok, _} = GpuSched.infer(server, "noop", %{data: [1]})
      end

      infer.(5)
      GpuSched.Admission.count_refused(:sys.get_state(pid).counters)
      {:ok, before} = Snapshot.take(server)
      TestNode.signal(elem(:sys.get_state(pid).process, 0), "KILL")
      until(fn -> match?({:ok, _}, GpuSched.infer(server, "noop", %{data: [1]})) end)
      infer.(6)
      # As if the one before had run for an hour.
      before = put_in(before["stats"]["uptime_us"], 3_600_000_000)
      {:ok, now} = Snapshot.take(server)
      now = Map.put(now, "at_ms", before["at_ms"] + 1_000)
      between = Snapshot.between(before, now)
      # Seven, and not two more than before.
      assert between.all.answered == 7.0
      assert between.models["noop"].answered == 7.0
      assert between.models["noop"].p50_ms != nil and between.latency.p50_ms != nil
      # That is counted here, and was not reset; it had been one before.
      assert between.all.refused == 0.0
      {:ok, text} = Metrics.text(server)
      {_types, samples} = read(text)
      success = {"nv_inference_request_success", %{"model" => "noop", "version" => "1"}}
      assert samples[success] == 7
      assert samples[{"gpu_sched_refused_total", %{"at" => "credit"}}] == 1
    end

    test "have histograms that add up" do
      {server, _pid} =
        RealPort.start(
          models: [
            [name: "m", engine: "synthetic", parameters: [a_us: 3_000], max_batch_requests: 4]
          ]
        )

      {:ok, _} = GpuSched.await_ready(server)
      requests = for _ <- 1..10, do: GpuSched.async(server, "m", %{data: [1]}, timeout: 60_000)
      results = for {:ok, result} <- GpuSched.await_many(requests), do: result
      {:ok, text} = Metrics.text(server)
      {types, samples} = read(text)
      batches = results |> Enum.map(& &1["batch"]) |> Enum.sum()

      for {name, sum} <- [
            {"gpu_sched_queue_seconds", nil},
            {"gpu_sched_compute_seconds", nil},
            {"gpu_sched_request_seconds", nil},
            {"gpu_sched_batch_requests", batches}
          ] do
        assert types[name] == "histogram"

        buckets =
          for {{^name, %{"model" => "m", "le" => le}}, n} <- bare(samples, "_bucket") do
            {if(le == "+Inf", do: :infinity, else: elem(Float.parse(le), 0)), n}
          end

        counts = buckets |> Enum.sort() |> Enum.map(&elem(&1, 1))
        # Cumulative, and the last is all of them; a number is less than an atom.
        assert counts == Enum.sort(counts)
        assert List.last(counts) == 10
        assert samples[{name <> "_count", %{"model" => "m"}}] == 10
        if sum, do: assert(samples[{name <> "_sum", %{"model" => "m"}}] == sum)
      end

      assert samples[{"gpu_sched_batch_requests_bucket", %{"model" => "m", "le" => "4"}}] == 10
    end

    test "clients are told, by their nodes" do
      slow = [name: "slow", engine: "synthetic", parameters: [a_us: 1_000_000]]
      {server, _pid} = RealPort.start(models: [slow])
      {:ok, _} = GpuSched.await_ready(server)
      assert GpuSched.clients(server) == {:ok, []}
      requests = for _ <- 1..3, do: GpuSched.async(server, "slow", %{data: [1]})
      me = Atom.to_string(node())

      GpuSched.FakePort.until(fn ->
        match?({:ok, [%{"in_flight" => 3}]}, GpuSched.clients(server))
      end)

      assert {:ok, [%{"node" => ^me, "processes" => 1}]} = GpuSched.clients(server)
      Enum.each(requests, &GpuSched.cancel/1)
    end
  end

  # What the format says of a label's value.
  defp unescape(text) do
    Regex.replace(~r/\\(.)/s, text, fn
      _, "n" -> "\n"
      _, same when same in ["\\", "\""] -> same
    end)
  end

  # The samples of that ending, without it.
  defp bare(samples, ending) do
    for {{name, labels}, n} <- samples, String.ends_with?(name, ending) do
      {{String.replace_suffix(name, ending, ""), labels}, n}
    end
  end

  defp device_model(server) do
    {:ok, devices} = GpuSched.devices(server)
    Enum.find(devices, &(&1["name"] == "cpu:0"))["model"]
  end

  test "the documentation has all of them, and no others" do
    {:docs_v1, _, _, _, %{"en" => text}, _, _} = Code.fetch_docs(GpuSched.Metrics)
    told = for [name] <- Regex.scan(~r/(?:nv|gpu_sched)_[a-z_]+/, text), uniq: true, do: name

    # Written out in the source, wherever they come from.
    source = File.read!("lib/gpu_sched/metrics.ex") |> String.split(~s(  """\n)) |> Enum.drop(2)

    written =
      for [_, name] <- Regex.scan(~r/"((?:nv|gpu_sched)_[a-z_]+)"/, Enum.join(source)),
          uniq: true,
          do: name

    assert Enum.sort(told -- ["gpu_sched_"]) == Enum.sort(written)
  end

  test "a scheduler that is not there is an error" do
    assert {:error, %GpuSched.Error{reason: :unavailable}} = Metrics.text(:nobody)
    assert {:error, %GpuSched.Error{reason: :unavailable}} = Snapshot.take(:nobody)
  end

  test "percentiles are read off buckets that double" do
    buckets = fn pairs -> for i <- 0..31, do: Map.get(Map.new(pairs), i, 0) end
    assert Snapshot.percentile_ms(buckets.([]), 50) == nil
    # Bucket 10 is from 512 to 1024 µs.
    assert Snapshot.percentile_ms(buckets.([{10, 100}]), 50) == 0.768
    assert Snapshot.percentile_ms(buckets.([{10, 100}]), 100) == 1.024
    assert Snapshot.percentile_ms(buckets.([{0, 99}, {10, 1}]), 99) <= 0.001
    assert Snapshot.percentile_ms(buckets.([{0, 90}, {10, 10}]), 99) > 0.9
  end
end
