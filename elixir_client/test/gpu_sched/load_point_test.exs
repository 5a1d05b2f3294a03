# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.LoadPointTest do
  # What is made of counts and histograms, where these are of targets that are simulated: no clock is
  # looked at.
  use ExUnit.Case, async: true

  alias GpuSched.Load
  alias GpuSched.Load.{Comparison, Conductor, Knee, Options, Point, Search, Table, Tally}

  @ms 1_000_000
  @second 1_000 * @ms

  # A server that answers one after the other, each in `service` ns, asked every 1/rate seconds.
  defp queue(rate, seconds, service, fails \\ fn _i -> false end) do
    gap = div(@second, rate)

    {answers, _free} =
      Enum.map_reduce(0..(rate * seconds - 1), 0, fn i, free ->
        due = i * gap
        done = max(due, free) + service
        {{due, done, fails.(i)}, done}
      end)

    answers
  end

  defp point(answers, seconds, how, opts \\ []) do
    opts = Options.check!([rate: how[:rate], duration: seconds * 1_000] ++ opts)
    within = opts.within && round(opts.within * @ms)
    tally = Tally.new(0, opts.window * @ms, opts.windows, within)

    for {due, done, failed?} <- answers do
      Tally.sent(tally, due, due)
      if failed?, do: Tally.failed(tally, due, done), else: Tally.ok(tally, due, due, done, %{})
    end

    Point.new(
      Map.merge(Tally.read(tally), %{"errors" => %{}, "overfull" => 0, "behind" => 0}),
      how,
      opts
    )
  end

  defp loaded(rate, opts \\ []), do: point(queue(rate, 10, 2 * @ms), 10, [rate: rate], opts)

  describe "a point" do
    test "is stable where the target keeps up" do
      assert %{"stable" => true, "growing" => false} = loaded(400)
    end

    test "is not where requests pile up, though windows beside each other agree" do
      for rate <- [600, 1_000, 5_000] do
        assert %{"stable" => false, "growing" => true} = loaded(rate)
      end
    end

    test "is not growing while the first are under way" do
      # Each takes half of the time that is measured, and all take as long.
      answers = for i <- 0..999, do: {i * @ms, i * @ms + 500 * @ms, false}
      assert %{"growing" => false} = point(answers, 1, rate: 1_000)
    end

    test "is growing where nothing is ever answered" do
      answers = for i <- 0..999, do: {i * @ms, 60 * @second, true}
      assert %{"stable" => false, "growing" => true} = point(answers, 1, rate: 1_000)
    end

    test "is not stable where nothing happened" do
      assert %{"stable" => false, "growing" => false} = point([], 10, rate: 1)
      # Answers stop half way.
      half = for {due, done, _} <- queue(100, 10, @ms), do: {due, done, due > 5 * @second}
      assert %{"stable" => false} = point(half, 10, rate: 100)
    end

    test "says so in its table" do
      assert row_of(loaded(1_000)) =~ "growing"
      refute row_of(loaded(100)) =~ "growing"
    end
  end

  describe "percentiles" do
    test "are of all that were due" do
      # 3 of 100 fail at once.
      point = point(queue(100, 10, @ms, &(rem(&1, 100) < 3)), 10, rate: 100)
      assert {point["ok"], point["failed"]} == {970, 30}
      assert Load.percentile_ms(point, 97) == 1.0
      assert Load.percentile_ms(point, 97.1) == :infinity
      assert Load.percentile_ms(point, 99) == :infinity
      assert hd(point["windows"])["p50_ms"] == 1.0
      assert hd(point["windows"])["p99_ms"] == nil
      assert row_of(point) =~ ">1.0"
    end

    test "have their knee where the wall begins" do
      # It answers 500 a second.
      rates = [100, 200, 300, 400, 480, 600, 800]
      assert Knee.find(for rate <- rates, do: loaded(rate)) == 480
      # There is none where nothing bends, and none of two points.
      assert Knee.find(for rate <- [100, 200, 300, 400], do: loaded(rate)) == nil
      assert Knee.find(for rate <- [100, 800], do: loaded(rate)) == nil
    end

    test "leave out of the knee what mostly failed" do
      served = for rate <- [100, 200, 300, 400], do: loaded(rate)
      refused = point(queue(900, 10, @ms, &(rem(&1, 2) == 0)), 10, rate: 900)
      assert Knee.find(served ++ [refused]) == Knee.find(served)
      # Nothing but failures leaves nothing to measure by.
      gone =
        for rate <- [100, 200, 300],
            do: point(queue(rate, 10, @ms, fn _ -> true end), 10, rate: rate)

      assert Knee.find(gone) == nil
    end
  end

  test "a search finds no rate at which requests pile up, however long they may wait" do
    search = Options.check!(search: [from: 50], within: 60_000).search
    measure = fn rate -> {:ok, loaded(round(rate), within: 60_000)} end

    assert {:ok, _points, %{"rate" => rate, "fails_at" => fails}} =
             Search.run(search, 99, measure)

    # Two milliseconds each: 500 a second.
    assert rate >= 400 and rate <= 530
    assert fails > rate
  end

  describe "a comparison" do
    test "tells of failures, and then of nothing that only what was answered shows" do
      before = run(point(queue(100, 10, 5 * @ms), 10, rate: 100))
      now = run(point(queue(100, 10, @ms, &(rem(&1, 3) == 0)), 10, rate: 100))
      rows = Map.new(Comparison.new(before, now).rows, &{&1.metric, &1.verdict})
      assert rows["failed %"] == :worse
      assert rows["p50 ms"] == nil and rows["p99 ms"] == nil
      assert Load.compare(before, now) =~ "∞"
      back = Map.new(Comparison.new(now, before).rows, &{&1.metric, &1.verdict})
      assert back["failed %"] == :better
    end
  end

  test "a generator that hardly waits limited the point, and where it does is no matter" do
    limited = fn busy, how ->
      opts = Options.check!(how ++ [duration: 1_000])
      raw = Tally.read(Tally.new(0, 100 * @ms, 10, nil))
      rest = %{"errors" => %{}, "overfull" => 0, "behind" => 0, "busy" => busy}
      point = Point.new(Map.merge(raw, rest), how, opts)
      {point["generator_busy"], point["limited"]}
    end

    assert {0.95, text} = limited.(0.95, rate: 10)
    assert text =~ "busy 95 % of the time"
    assert limited.(0.89, rate: 10) == {0.89, nil}
    # Callers that wait have nothing else to do.
    assert limited.(0.95, concurrency: 1) == {nil, nil}
  end

  test "the busiest lane of all nodes is the one that counts" do
    raw = &Map.put(Tally.read(Tally.new(0, 100 * @ms, 2, nil)), "busy", &1)
    assert Tally.merge(raw.(0.25), raw.(0.75))["busy"] == 0.75
  end

  describe "generators of several nodes" do
    # A generator whose clock is so far ahead; tells when it is to begin.
    defp generator(conductor, ahead) do
      test = self()

      spawn(fn ->
        monitor = Process.monitor(conductor)
        send(conductor, {:prepared, self()})
        send(test, {self(), play(conductor, monitor, ahead)})
      end)
    end

    defp play(conductor, monitor, ahead) do
      receive do
        {:clock, ^conductor, ref} ->
          send(conductor, {ref, GpuSched.Admission.now() + ahead})
          play(conductor, monitor, ahead)

        {:begin, at, error} ->
          {at - ahead, error}

        {:DOWN, ^monitor, :process, _pid, _reason} ->
          :over
      end
    end

    test "begin at the same time, whatever their clocks say" do
      conductor = Conductor.start(3)
      aheads = [0, 3_600 * @second, -86_400 * @second]
      generators = for ahead <- aheads, do: generator(conductor, ahead)
      before = GpuSched.Admission.now()
      Conductor.parts(conductor, generators)

      told =
        for pid <- generators do
          assert_receive {^pid, {at, error}}, 30_000
          {at, error}
        end

      # As near as is said, and not before they were asked to.
      for {at, error} <- told,
          {other, wrong} <- told,
          do: assert(abs(at - other) <= error + wrong)

      for {at, _error} <- told, do: assert(at > before)
    end

    test "do not begin where one of them cannot" do
      conductor = Conductor.start(2)
      one = generator(conductor, 0)
      other = spawn(fn -> :ok end)
      Conductor.parts(conductor, [one, other])
      assert_receive {^one, :over}, 30_000
    end

    test "do not begin when nobody wants to know any more" do
      test = self()
      coordinator = spawn(fn -> send(test, {:conductor, Conductor.start(2)}) && hold() end)
      assert_receive {:conductor, conductor}
      one = generator(conductor, 0)
      Process.exit(coordinator, :kill)
      assert_receive {^one, :over}, 30_000
    end

    defp hold, do: receive(do: (:never -> :ok))

    test "tell how far apart they may have begun, and the table where that is more than a window" do
      point = Map.put(loaded(100), "skew_ms", 2.5)
      run = fn window -> put_in(run(point).options["window_ms"], window) end
      table = &(&1 |> run.() |> Table.format() |> IO.iodata_to_binary())
      assert table.(2) =~ "began up to 2.5 ms apart"
      refute table.(3) =~ "apart"
    end
  end

  test "how late a function is called counts where it is called" do
    test = self()
    # The process is created, and runs when it may: what it tells is from there.
    left = fn -> send(test, {:left, self()}) end
    sender = {:call, fn _ -> send(test, {:called, self()}) end}
    assert {:sent, ref, pid} = GpuSched.Load.Sender.send(sender, 1, left)
    assert_receive {:DOWN, ^ref, :process, ^pid, _outcome}
    assert {:messages, [{:left, ^pid}, {:called, ^pid}]} = Process.info(self(), :messages)
  end

  test "one that may sleep may be later" do
    assert Options.check!(rate: 1).max_lateness == 1.0
    assert Options.check!(rate: 1, spin: false).max_lateness == 3.0
    assert Options.check!(rate: 1, spin: false, max_lateness: 0.5).max_lateness == 0.5
  end

  test "a run is compared with what was before" do
    of = fn rate, ms -> point(queue(rate, 10, ms * @ms), 10, rate: rate) end
    before = run(of.(10, 5))
    now = %{run(of.(10, 80)) | points: [of.(10, 80), of.(15, 5)]}
    comparison = Comparison.new(before, now)
    row = Enum.find(comparison.rows, &(&1.metric == "p50 ms"))
    assert {row.before, row.now, row.verdict} == {5.0, 80.0, :worse}
    assert comparison.unmatched == [15]
    same = Comparison.new(now, now)
    assert Enum.all?(same.rows, &(&1.verdict in [:same, nil]))
    text = Load.compare(before, now)
    assert text =~ "worse" and text =~ "only in the second: 15"
  end

  test "a comparison of few windows says nothing of what may be chance" do
    few = fn ms -> run(point(queue(100, 10, ms * @ms), 10, [rate: 100], window: 2_500)) end
    verdicts = fn a, b -> for row <- Comparison.new(a, b).rows, do: row.verdict end
    assert Enum.all?(verdicts.(few.(1), few.(5)), &(&1 in [nil, :same]))
    many = fn ms -> run(point(queue(100, 10, ms * @ms), 10, [rate: 100], window: 2_000)) end
    assert :worse in verdicts.(many.(1), many.(5))
  end

  test "runs are merged that had the same target and the same latency to be held" do
    a = run(loaded(100, within: 5))
    assert [%{"offered" => 200, "in_time" => 2_000}] = Load.merge([a, a]).points
    assert_raise ArgumentError, ~r/same target/, fn -> Load.merge([a, %{a | target: "other"}]) end

    # Their generators began as far apart as those of the worst of them.
    apart = fn ms -> update_in(a.points, fn [p] -> [Map.put(p, "skew_ms", ms)] end) end

    for {runs, ms} <- [{[1.0, 2.5, 2.0], 2.5}, {[nil, 1.0], 1.0}, {[1.0, nil], 1.0}, {[nil], nil}],
        do: assert([%{"skew_ms" => ^ms}] = Load.merge(Enum.map(runs, apart)).points)

    assert_raise ArgumentError, ~r/to be held/, fn ->
      Load.merge([a, run(loaded(100, within: 6))])
    end
  end

  test "what was measured before a load that could not be is kept" do
    measure = fn
      rate when rate < 100 -> {:ok, loaded(round(rate), within: 5)}
      _rate -> {:error, %GpuSched.Error{reason: :unavailable, message: "gone"}}
    end

    search = Options.check!(search: [from: 25], within: 5).search
    assert {:broke, points, %{"rate" => 50}, broke} = Search.run(search, 99, measure)
    assert Enum.map(points, & &1["offered"]) == [25, 50]
    assert %{"offered" => 100, "error" => "gone" <> _} = broke
    gone = fn _ -> {:error, %GpuSched.Error{reason: :unavailable, message: "gone"}} end
    assert {:error, %GpuSched.Error{}} = Search.run(search, 99, gone)
    run = %{run(hd(points)) | broke: broke}
    assert Load.table(run) =~ "It ended at 100: gone"
  end

  describe "times" do
    @describetag :tmp_dir

    defp trace(dir, text) do
      path = Path.join(dir, "trace.csv")
      File.write!(path, text)
      {:replay, path}
    end

    test "of a trace are from its first arrival to its last", %{tmp_dir: dir} do
      arrivals = trace(dir, "arrival_ms\n0\n50\n100\n5000\n")
      opts = Options.check!(arrivals: arrivals)
      # The last of them is within.
      assert {opts.warmup, opts.duration, opts.ended} == {0, 5_001, nil}
      assert opts.windows * opts.window >= 5_001
      # At a rate of its own it is shorter or longer: four at two a second.
      assert Options.at(opts, 2).duration == 2_001
      assert Options.at(opts, 4).duration == 1_001
      assert Options.check!(arrivals: arrivals, warmup: 1_000).duration == 4_001
      assert Options.check!(arrivals: arrivals, duration: 1_000).ended == nil
      opts = Options.check!(arrivals: arrivals, duration: 60_000)
      assert {opts.duration, opts.ended} == {5_001, 5_001}
      wrong = fn -> Options.check!(arrivals: arrivals, warmup: 10_000) end
      assert_raise ArgumentError, ~r/over after 5001 ms/, wrong
    end

    test "have no more windows than there is room for" do
      opts = Options.check!(rate: 1, duration: 24 * 3_600_000)
      assert opts.windows == 600
      wrong = fn -> Options.check!(rate: 1, duration: 1_000_000, window: 10) end
      assert_raise ArgumentError, ~r/at most 600 windows/, wrong
      assert Options.check!(rate: 1).warmup == 2_000
    end
  end

  defp run(point) do
    machine = %{"generators" => ["a"], "otp" => "25", "schedulers" => 1, "elixir" => "1.14"}
    options = %{"duration_ms" => 1, "warmup_ms" => 0, "within_ms" => nil}

    %Load{
      title: "t",
      target: "t",
      started_at: "now",
      machine: machine,
      arrivals: "constant",
      options: options,
      points: [point]
    }
  end

  defp row_of(point), do: point |> run() |> Table.format() |> IO.iodata_to_binary()
end
