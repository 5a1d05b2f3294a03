# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.DevTest do
  # What ./dev does with nodes: its host, its laptop, its demo and its load tests, in a checkout that is
  # built already, so that it has nothing to build, and with no epmd on the PATH.
  use ExUnit.Case, async: false

  alias GpuSched.{RealPort, TestNode, ToolsPath}

  reason =
    cond do
      System.find_executable("bash") == nil -> "bash is not installed"
      System.find_executable("iex") == nil -> "iex is not installed"
      true -> RealPort.minilm_missing() || TestNode.missing()
    end

  if reason, do: @moduletag(skip: reason)
  @moduletag capture_log: true, tmp_dir: true, timeout: 300_000

  @root Path.expand("../../..", __DIR__)

  # A checkout, by links, with the modules and the scheduler that the tests have. Where ./dev would
  # build or install it finds that all is done.
  setup %{tmp_dir: tmp} = context do
    unless context[:skip] do
      root = Path.join(tmp, "checkout")
      File.mkdir_p!(Path.join(root, "elixir_client/_build/dev/lib/gpu_sched"))
      File.cp!(Path.join(@root, "dev"), Path.join(root, "dev"))

      for name <- ~w(demo tools elixir_client/bin elixir_client/lib),
          do: File.ln_s!(Path.join(@root, name), Path.join(root, name))

      ebin = Application.app_dir(:gpu_sched, "ebin")
      File.ln_s!(ebin, Path.join(root, "elixir_client/_build/dev/lib/gpu_sched/ebin"))
      port = Path.join(root, "build/port")
      File.mkdir_p!(port)
      File.ln_s!(RealPort.path(), Path.join(port, "sched-port"))

      done = Path.join(tmp, "done")
      File.mkdir_p!(done)

      for {name, text} <- [{"cmake", ""}, {"ninja", ""}, {"mix", ""}, {"dpkg-query", "installed"}] do
        path = Path.join(done, name)
        File.write!(path, "#!/bin/sh\nprintf '%s' '#{text}'\n")
        File.chmod!(path, 0o755)
      end

      without = ToolsPath.without(Path.join(tmp, "without"), ["epmd"])

      env = [
        {"PATH", done <> ":" <> without},
        {"GPU_SCHED_MODEL", RealPort.minilm()},
        {"GPU_SCHED_BUILD", Path.join(root, "build")},
        {"ERL_LIBS", nil},
        {"ERL_AFLAGS", nil},
        {"ERL_FLAGS", nil},
        {"MIX_ENV", nil}
      ]

      {:ok, root: root, env: env}
    end
  end

  # Ends by itself, or with the test.
  defp dev(args, context) do
    options = [cd: context.root, env: context.env, stderr_to_stdout: true]
    command = Enum.map_join(["./dev" | args], " ", &GpuSched.ConnectScript.quote_word/1)
    System.cmd("/bin/sh", ["-c", "exec timeout 240 #{command} </dev/null"], options)
  end

  test "the demo shows all it has, and leaves nothing", context do
    assert {output, 0} = dev(["demo"], context)
    assert output =~ "is the module GpuSched here? false"
    assert output =~ "That was all"
    refute output =~ "left behind"
  end

  # An iex session that is typed into.
  defp shell(args, context) do
    env = for {k, v} <- context.env, do: {to_charlist(k), if(v, do: to_charlist(v), else: false)}
    options = [:binary, :exit_status, :stderr_to_stdout, args: args, cd: context.root, env: env]
    Port.open({:spawn_executable, Path.join(context.root, "dev")}, options)
  end

  defp read_until(port, text, seen \\ "") do
    if seen =~ text do
      seen
    else
      assert_receive {^port, {:data, more}}, 60_000, seen
      read_until(port, text, seen <> more)
    end
  end

  defp read_to_end(port, seen \\ "") do
    receive do
      {^port, {:data, more}} -> read_to_end(port, seen <> more)
      {^port, {:exit_status, status}} -> {seen, status}
    end
  end

  test "load tests and a laptop go to the host that runs", context do
    assert {output, 1} = dev(["load", "--host", "minilm", "--rate", "5"], context)
    assert output =~ "there is no host: start it with ./dev host"
    assert {output, 1} = dev(["laptop"], context)
    assert output =~ "there is no host"

    host = shell(["host"], context)
    on_exit(fn -> File.rm_rf!(Path.join(context.root, ".cache")) end)
    read_until(host, "This is the host")
    Port.command(host, ~s|IO.puts(["it ", "is ", inspect(GpuSched.await_ready(GpuSched))])\n|)
    read_until(host, "it is {:ok, ")

    assert {output, 1} = dev(["host"], context)
    assert output =~ "a host is running already"

    how = ~w(--rate 5 --arrivals constant --duration 1 --warmup 0 --timeout 60000 --quiet)
    json = Path.join(context.tmp_dir, "run.json")
    {output, status} = dev(["load", "--host", "minilm", "--json", json] ++ how, context)
    # 2 where others used the machine so much that the generator was late.
    assert status in [0, 2], output
    assert [%{"ok" => 5}] = GpuSched.Load.read!(json).points

    assert {output, 1} = dev(["load", "--host", "nobody" | how], context)
    assert output =~ ~s(no model "nobody" is loaded)

    laptop = shell(["laptop"], context)
    read_until(laptop, "The host is bound to `host`")

    Port.command(
      laptop,
      ~s|IO.puts(["it ", "is ", inspect({host, Code.ensure_loaded?(GpuSched)})])\nSystem.halt(3)\n|
    )

    assert {output, 3} = read_to_end(laptop)
    assert output =~ ~r/it is \{:"gpu-\d+@127.0.0.1", false\}/

    connected = shell(["connect"], context)
    read_until(connected, "connected to gpu-")
    Port.command(connected, ~s|IO.puts(["it ", "is ", inspect(Code.ensure_loaded?(GpuSched))])\n|)
    read_until(connected, "it is true")
    Port.command(connected, "System.halt(4)\n")
    assert {_output, 4} = read_to_end(connected)
    Port.command(host, "System.stop()\n")
    assert {_output, 0} = read_to_end(host)
  end
end
