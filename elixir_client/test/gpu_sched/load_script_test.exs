# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.LoadScriptTest do
  # The command line of ./dev load.
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO

  alias GpuSched.Load.Script
  alias GpuSched.{FakePort, RealPort}

  @moduletag :tmp_dir
  @moduletag capture_log: true

  defp run(args) do
    out =
      capture_io(fn ->
        err = capture_io(:stderr, fn -> Process.put(:code, Script.main(args)) end)
        Process.put(:err, err)
      end)

    {Process.get(:code), out, Process.get(:err)}
  end

  test "says what it does not understand" do
    for {args, part} <- [
          {[], "say which model"},
          {["--speed", "3"], "--speed is not an option"},
          {["a", "b", "--rate", "1"], "one word too many"},
          {["no such folder", "--rate", "1"], "a model is a folder"},
          {["synthetic", "--rate", "fast"], "\"fast\" is no number"},
          {["synthetic", "--rate", "1", "--arrivals", "even"], "--arrivals takes"},
          {["synthetic", "--rate", "1", "--parameter", "x"], "NAME=VALUE"},
          {["compare", "one.json"], "takes two files"},
          {["compare", "one.json", "two.json"], "no such file"}
        ] do
      assert {64, "", err} = run(args)
      assert err =~ part
    end

    assert {0, out, ""} = run(["--help"])
    assert out =~ "usage: ./dev load"
  end

  test "a node that is not there is told" do
    assert {1, "", err} = run(["m", "--rate", "1", "--node", "nobody@127.0.0.1"])
    assert err =~ "no name" or err =~ "cannot be reached"
  end

  if reason = FakePort.missing() || GpuSched.TestNode.missing(), do: @tag(skip: reason)

  test "a sweep that ends early is told, and is no success", %{tmp_dir: dir} do
    # Not the test's supervisor's, which would start it again.
    server = :"ends_#{System.unique_integer([:positive])}"
    {:ok, pid} = GpuSched.start_link(FakePort.options([], name: server))
    Process.unlink(pid)
    payload = Path.join(dir, "payload.jsonl")
    File.write!(payload, "{}\n")

    # None of the first rate is answered before the scheduler is gone, so the second is not begun.
    spawn_link(fn ->
      FakePort.until(fn -> FakePort.seen(server)["held"] > 0 end)
      Process.exit(pid, :kill)
    end)

    where = ["hold", "--node", Atom.to_string(node()), "--server", ":#{server}"]

    how =
      ~w(--rate 50,100 --duration 0.1 --warmup 0 --quiet --timeout 60000 --payload) ++ [payload]

    {code, out, err} = run(where ++ how)
    assert out =~ "It ended at 100"
    assert err =~ "not all was measured: it ended at 100: "
    assert code == 1
  end

  if reason = RealPort.missing() || GpuSched.TestNode.missing(), do: @tag(skip: reason)

  test "measures a model of a scheduler that runs on a node" do
    {server, _pid} = RealPort.start()
    where = ["noop", "--node", Atom.to_string(node()), "--server", ":#{server}"]
    how = ~w(--concurrency 2 --duration 0.2 --warmup 0 --quiet --timeout 10000)
    assert {0, out, ""} = run(where ++ how)
    assert out =~ "closed loop" and out =~ "callers"
    assert {1, _out, err} = run(["none" | tl(where)] ++ how)
    assert err =~ "none"
  end

  if reason = RealPort.missing(), do: @tag(skip: reason)

  test "measures, writes, compares and merges", %{tmp_dir: dir} do
    previous = System.get_env("GPU_SCHED_PORT")
    System.put_env("GPU_SCHED_PORT", RealPort.path())

    on_exit(fn ->
      if previous,
        do: System.put_env("GPU_SCHED_PORT", previous),
        else: System.delete_env("GPU_SCHED_PORT")
    end)

    path = fn name -> Path.join(dir, name) end

    args = fn name ->
      ~w(synthetic --parameter a_us=1000 --max-batch 8 --rate 50 --arrivals constant) ++
        ~w(--duration 0.2 --warmup 0 --quiet --json) ++ [path.(name <> ".json")]
    end

    {code, out, ""} = run(args.("a") ++ ["--html", path.("a.html"), "--csv", path.("a.csv")])
    # 2 where others used the machine so much that the generator was late.
    assert code in [0, 2]
    assert out =~ "offered/s"
    assert GpuSched.Load.read!(path.("a.json")).points |> hd() |> Map.fetch!("ok") == 10
    assert File.read!(path.("a.html")) =~ "<svg"
    {_code, out, ""} = run(args.("b") ++ ["--against", path.("a.json")])
    assert out =~ "before:"
    assert {0, out, ""} = run(["compare", path.("a.json"), path.("b.json")])
    assert out =~ "p99 ms"
    {_code, out, ""} = run(["merge", path.("a.json"), path.("b.json"), "--json", path.("c.json")])
    assert out =~ "100"
    assert GpuSched.Load.read!(path.("c.json")).points |> hd() |> Map.fetch!("ok") == 20
  end
end
