# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.DeployTest do
  # What is in deploy/, as far as it can be run here: the release, its env.sh, and what others read.
  use ExUnit.Case, async: false

  alias GpuSched.{ConnectScript, FakePort, RealPort}

  @deploy Path.expand("../../../deploy", __DIR__)
  @moduletag tmp_dir: true, timeout: 300_000

  unless File.dir?(@deploy), do: @moduletag(skip: "deploy/ is not there: this is not a checkout")

  describe "env.sh" do
    # It is a template without anything in it to be filled in.
    defp environment(variables) do
      {output, 0} = run(variables)

      for line <- String.split(output, "\n", trim: true),
          into: %{},
          do: List.to_tuple(String.split(line, "=", parts: 2))
    end

    defp run(variables) do
      script = """
      . #{ConnectScript.quote_word(Path.join(@deploy, "host/rel/env.sh.eex"))}
      for name in RELEASE_NODE RELEASE_DISTRIBUTION ERL_AFLAGS ERL_EPMD_ADDRESS; do
          eval "printf '%s=%s\\n' $name \\"\\${$name:-}\\""
      done
      """

      names =
        ~w(ERL_AFLAGS ERL_FLAGS ERL_ZFLAGS FLY_APP_NAME RELEASE_COOKIE GPU_SCHED_ADDRESS GPU_SCHED_LISTEN)

      cleared = for name <- names, do: {name, nil}
      options = [env: cleared ++ variables, stderr_to_stdout: true]

      # Whichever shell the host has as sh.
      told =
        for [shell | args] <- [["dash"], ["bash", "--posix"], ["busybox", "sh"]],
            path = System.find_executable(shell),
            do: System.cmd(path, args ++ ["-eu", "-c", script], options)

      assert [one] = Enum.uniq(told)
      one
    end

    test "on Fly is what gpu_sched connect --fly looks for" do
      env =
        environment([
          {"FLY_APP_NAME", "my-gpu-app"},
          {"FLY_IMAGE_REF", "registry.fly.io/my-gpu-app:deployment-01J9ZQ5KX0"},
          {"FLY_PRIVATE_IP", "fdaa:0:1:a7b:1f60:1:2:2"},
          {"RELEASE_COMMAND", "start"},
          {"RELEASE_COOKIE", "long and random"}
        ])

      assert env["RELEASE_NODE"] == "my-gpu-app-01J9ZQ5KX0@fdaa:0:1:a7b:1f60:1:2:2"
      assert env["RELEASE_DISTRIBUTION"] == "name"
      assert env["ERL_AFLAGS"] =~ "-proto_dist inet6_tcp"
      assert env["ERL_AFLAGS"] =~ "inet_dist_listen_min 9100 inet_dist_listen_max 9100"
      assert env["ERL_AFLAGS"] =~ "inet_dist_use_interface {64938,0,1,2683,8032,1,2,2}"
      assert env["ERL_EPMD_ADDRESS"] == "fdaa:0:1:a7b:1f60:1:2:2"
    end

    test "elsewhere takes the address it is given, and gives -proto_dist once" do
      start = [{"RELEASE_COMMAND", "start"}, {"RELEASE_COOKIE", "long and random"}]
      env = environment(start)
      assert env["RELEASE_NODE"] == "gpu@127.0.0.1"
      refute env["ERL_AFLAGS"] =~ "proto_dist"
      assert env["ERL_AFLAGS"] =~ "inet_dist_use_interface {127,0,0,1}"

      # A colon elsewhere is none of an address.
      env = environment([{"ERL_FLAGS", "-config a:b"} | start])
      refute env["ERL_AFLAGS"] =~ "proto_dist"

      for {address, tuple} <- [
            {"::1", "{0,0,0,0,0,0,0,1}"},
            {"fd5c:9::2", "{64860,9,0,0,0,0,0,2}"},
            {"1:2:3:4:5:6:7:8", "{1,2,3,4,5,6,7,8}"}
          ] do
        env = environment([{"GPU_SCHED_ADDRESS", address} | start])
        assert env["ERL_AFLAGS"] =~ "inet_dist_use_interface #{tuple}"
        assert env["ERL_AFLAGS"] =~ "-proto_dist inet6_tcp"
      end

      # A name is resolved, and one that is not the host's own says nothing of where to listen.
      env = environment([{"GPU_SCHED_ADDRESS", "localhost"} | start])
      assert env["RELEASE_NODE"] == "gpu@localhost"
      assert env["ERL_AFLAGS"] =~ "inet_dist_use_interface {127,0,0,1}"
      assert env["ERL_EPMD_ADDRESS"] == "127.0.0.1"
      nowhere = [{"GPU_SCHED_ADDRESS", "no-such-host.invalid"} | start]
      assert {output, 1} = run(nowhere)
      assert output =~ "no-such-host.invalid has no address here"
      env = environment([{"GPU_SCHED_LISTEN", "10.1.2.3"} | nowhere])
      assert env["RELEASE_NODE"] == "gpu@no-such-host.invalid"
      assert env["ERL_AFLAGS"] =~ "inet_dist_use_interface {10,1,2,3}"
      assert env["ERL_EPMD_ADDRESS"] == "10.1.2.3"

      given = [{"GPU_SCHED_ADDRESS", "fd5c:9::2"}, {"ERL_AFLAGS", "-proto_dist inet6_tcp"}]
      env = environment(given)
      assert env["RELEASE_NODE"] == "gpu@fd5c:9::2"
      assert length(String.split(env["ERL_AFLAGS"], "-proto_dist")) == 2
      # A shell beside the node does not take its port.
      refute env["ERL_AFLAGS"] =~ "listen"
    end
  end

  test "without a cookie of its own it does not start" do
    [_, placeholder] =
      Regex.run(~r/RELEASE_COOKIE = "(.*)"/, File.read!(Path.join(@deploy, "fly.toml")))

    for cookie <- [nil, "", placeholder] do
      assert {output, 1} = run([{"RELEASE_COMMAND", "start"}, {"RELEASE_COOKIE", cookie}])
      assert output =~ "RELEASE_COOKIE is not set, or is what stands in its place"
    end

    # Only what starts a node makes it reachable.
    assert {_, 0} = run([{"RELEASE_COMMAND", "stop"}])
  end

  unless System.find_executable("systemd-analyze"),
    do: @tag(skip: "systemd-analyze is not installed")

  test "the unit is one that systemd takes", %{tmp_dir: tmp} do
    # Where the release is not installed, systemd says so of its program; another stands for it.
    unit =
      Path.join(@deploy, "gpu_host.service")
      |> File.read!()
      |> String.replace("/opt/gpu_host/bin/gpu_host", "/bin/true")

    path = Path.join(tmp, "gpu_host.service")
    File.write!(path, unit)
    {output, status} = System.cmd("systemd-analyze", ["verify", path], stderr_to_stdout: true)
    mine = for line <- String.split(output, "\n"), line =~ "gpu_host", do: line
    assert {mine, status} == {[], 0}
  end

  @has_toml match?(
              {_, 0},
              System.find_executable("python3") &&
                System.cmd("python3", ["-c", "import tomllib"], stderr_to_stdout: true)
            )
  unless @has_toml, do: @tag(skip: "no python3 with tomllib (3.11) to parse TOML with")

  test "fly.toml is TOML, and opens nothing to the internet" do
    code =
      "import json, sys, tomllib; print(json.dumps(sorted(tomllib.load(open(sys.argv[1], 'rb')))))"

    {output, 0} = System.cmd("python3", ["-c", code, Path.join(@deploy, "fly.toml")])
    assert output =~ ~s("app")
    refute output =~ "service"
  end

  test "what the Dockerfiles copy and run is there" do
    for file <- ["Dockerfile", "Dockerfile.cuda"] do
      text = File.read!(Path.join(@deploy, file))
      [_, folder] = Regex.run(~r"WORKDIR /src/(\S+)", text)
      assert File.exists?(Path.join([@deploy, "..", folder, "mix.exs"]))
      assert text =~ "mix gpu_sched.build"
      assert File.exists?(Path.join(@deploy, file <> ".dockerignore"))
    end
  end

  for reason <- [RealPort.missing() || ConnectScript.missing()], reason, do: @tag(skip: reason)

  test "the release starts, IPv4 and IPv6, and a laptop connects to it", %{tmp_dir: tmp} do
    build!(tmp)
    models = Path.join(tmp, "models")
    File.mkdir_p!(Path.join(models, "noop"))

    File.write!(
      Path.join(models, "noop/gpu_sched.json"),
      ~s({"engine": "synthetic"})
    )

    for address <- ["127.0.0.1", "::1"] do
      cookie = "deployed_#{System.unique_integer([:positive])}_#{System.pid()}"
      name = "gpu_#{System.unique_integer([:positive])}_#{System.pid()}"

      env = [
        {"GPU_SCHED_ADDRESS", address},
        {"GPU_SCHED_NAME", name},
        {"GPU_SCHED_MODELS", models},
        {"GPU_SCHED_DIST_PORT", "#{free_port(address)}"},
        {"GPU_SCHED_PORT", RealPort.path()},
        {"GPU_SCHED_REGION", "rack-7"},
        {"RELEASE_COOKIE", cookie},
        {"RELEASE_TMP", Path.join(tmp, "run")},
        # An epmd is there already, whoever started it.
        {"ERL_AFLAGS", nil}
      ]

      host = start(Path.join(tmp, "release/bin/gpu_host"), env)
      file = Path.join(tmp, "cookie")
      File.write!(file, cookie)

      typed = """
      {:ok, m} = GpuSched.await_ready({GpuSched, host}, "noop")
      {:ok, [one]} = GpuSched.cluster()
      IO.puts(["it: ", m["state"], " in ", one["region"], " ", inspect(one["server"])])
      """

      target = "#{name}@#{address}"
      FakePort.until(fn -> registered?(name) end)
      args = ["connect", "--cookie-file", file, target]
      {output, 0} = ConnectScript.run(args, typed, home: tmp)
      assert output =~ "it: ready in rack-7 {GpuSched, :\"#{target}\"}"

      # SIGTERM ends it in good order.
      stop(host)
    end
  end

  defp build!(tmp) do
    env = [
      {"MIX_ENV", "prod"},
      {"MIX_BUILD_PATH", Path.join(tmp, "build")},
      {"GPU_SCHED_CLIENT", Path.expand("../..", __DIR__)}
    ]

    args = ["release", "--quiet", "--path", Path.join(tmp, "release")]
    options = [cd: Path.join(@deploy, "host"), env: env, stderr_to_stdout: true]
    {output, status} = System.cmd("mix", args, options)
    assert status == 0, output
  end

  defp start(program, env) do
    env =
      for {name, value} <- env,
          do: {to_charlist(name), if(value, do: to_charlist(value), else: false)}

    options = [:binary, :exit_status, :stderr_to_stdout, args: ["start"], env: env]
    port = Port.open({:spawn_executable, program}, options)
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    on_exit(fn -> System.cmd("/bin/sh", ["-c", "kill -9 #{os_pid} 2>/dev/null"]) end)
    {port, os_pid}
  end

  defp stop({port, os_pid}) do
    {_, 0} = System.cmd("/bin/sh", ["-c", "kill -TERM #{os_pid}"])
    assert_receive {^port, {:exit_status, 0}}, 30_000
  end

  defp registered?(name) do
    {:ok, names} = :erl_epmd.names({127, 0, 0, 1})
    List.keymember?(names, to_charlist(name), 0)
  end

  defp free_port(address) do
    {:ok, ip} = :inet.parse_address(to_charlist(address))
    {:ok, socket} = :gen_tcp.listen(0, ip: ip)
    {:ok, port} = :inet.port(socket)
    :ok = :gen_tcp.close(socket)
    port
  end
end
