# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.ConnectTest do
  # bin/gpu_sched, run as a laptop that has nothing but Elixir runs it.
  use ExUnit.Case, async: false

  alias GpuSched.{ConnectScript, DnsServer, FakePort, HostNode, TestNode, ToolsPath}

  if reason = ConnectScript.missing() || FakePort.missing(), do: @moduletag(skip: reason)
  @moduletag capture_log: true, tmp_dir: true, timeout: 120_000

  @fly Path.expand("../support/fly_status.json", __DIR__)

  defp run(args, input, tmp, options \\ []),
    do: ConnectScript.run(args, input, [home: tmp] ++ options)

  defp host(options \\ []) do
    host = HostNode.start(options)
    HostNode.scheduler(host)
    host
  end

  # What is typed into the shell: prints one term, marked so that it is told from the prompt's echo.
  defp show(code), do: ~s|IO.puts(["got ", "it: ", inspect(#{code}), "."])\n|
  defp shown(output), do: ~r/got it: (.*)\./ |> Regex.scan(output) |> Enum.map(&List.last/1)

  test "opens a shell that is connected, hidden, and has the host's modules", %{tmp_dir: tmp} do
    host = host()
    file = HostNode.cookie_file(host, tmp)

    typed =
      show("host") <>
        show("{Node.list(), Node.list(:hidden) == [host]}") <>
        show(
          ~s|GpuSched.infer({GpuSched, host}, "echo", %{"x" => ["1"]}, output: :list) \|> elem(1) \|> get_in(["outputs", "x"])|
        ) <>
        show("{Application.spec(:gpu_sched, :vsn), :code.which(GpuSched.Server)}") <>
        show("GpuSched.Server.module_info(:md5)") <>
        show(~s|node() \|> Atom.to_string() \|> String.split("@")|) <>
        show("File.exists?(System.fetch_env!(\"GPU_SCHED_CONNECT_FOLDER\") <> \"/cookie\")")

    assert {output, 0} = run(["connect", "--cookie-file", file, "#{host.node}"], typed, tmp)
    vsn = to_string(Application.spec(:gpu_sched, :vsn))
    assert output =~ "gpu_sched #{vsn}: "
    assert output =~ "modules loaded from #{host.node}"

    assert [bound, hidden, inferred, loaded, md5, name, "false"] = shown(output)
    assert bound == inspect(host.node)
    assert hidden == "{[], true}"
    assert inferred == ~s(["1"])
    # From the host, not from a path of this machine's own: its code path has nothing of ours.
    assert loaded =~ "'#{vsn}'" or loaded =~ "~c\"#{vsn}\""
    assert md5 == inspect(GpuSched.Server.module_info(:md5))
    assert name =~ ~r/\["alice-\w+", "127.0.0.1"\]/
    # Nothing is left behind.
    assert Path.wildcard(Path.join(tmp, "gpu_sched.*")) == []
  end

  test "finds the node of a machine, by its address and by a DNS name", %{tmp_dir: tmp} do
    host = host(name: "gpu", host: "::1")
    [name, _] = String.split("#{host.node}", "@")
    file = HostNode.cookie_file(host, tmp)
    port = DnsServer.start([{"fra.my-app.internal", :aaaa, {0, 0, 0, 0, 0, 0, 0, 1}}])

    # Other nodes are registered with this machine's epmd: a name says which.
    args = ["connect", "--cookie-file", file, "--dns", "127.0.0.1:#{port}"]

    assert {output, 0} = run(args ++ ["#{name}@fra.my-app.internal"], show("host"), tmp)
    assert shown(output) == [inspect(host.node)]

    assert {output, 0} = run(args ++ ["#{name}@[::1]"], show("host"), tmp)
    assert shown(output) == [inspect(host.node)]

    assert {output, 1} = run(args ++ ["fra.my-app.internal"], "", tmp)
    assert output =~ "several nodes run on fra.my-app.internal"
    assert output =~ name

    assert {output, 1} = run(args ++ ["ams.my-app.internal"], "", tmp)
    assert output =~ "ams.my-app.internal has no address: the name server 127.0.0.1"
  end

  test "speaks IPv6 to a node that does, and not twice", %{tmp_dir: tmp} do
    host = host(host: "::1")
    file = HostNode.cookie_file(host, tmp)
    typed = show("{host, :init.get_argument(:proto_dist)}")
    args = ["connect", "--cookie-file", file, "#{host.node}"]

    for env <- [[], [{"ERL_AFLAGS", "-proto_dist inet6_tcp"}]] do
      assert {output, 0} = run(args, typed, tmp, env: env)
      assert [shown] = shown(output)
      assert shown =~ ~r/#{Regex.escape(inspect(host.node))}, {:ok, \[\[.*"?'?inet6_tcp"?'?\]\]}/
    end

    twice = [{"ERL_AFLAGS", "-proto_dist inet6_tcp"}, {"ERL_FLAGS", "-proto_dist inet6_tcp"}]
    assert {output, 1} = run(args, typed, tmp, env: twice)
    assert output =~ "-proto_dist is given twice"

    assert {output, 1} = run(args, typed, tmp, env: [{"ERL_FLAGS", "-proto_dist inet_tcp"}])
    assert output =~ "speaks inet6_tcp"
  end

  unless System.find_executable("jq"), do: @tag(skip: "jq is not installed")

  test "asks Fly for the node, its address and the cookie", %{tmp_dir: tmp} do
    # The node's name is what rel/env.sh.eex makes of the app and the image, but for what is unique here.
    host = host(name: "my-gpu-app-01J9ZQ5KX0", host: "::1")
    [name, _] = String.split("#{host.node}", "@")
    tag = String.replace_prefix(name, "my-gpu-app-", "deployment-")

    fly = fake_fly(tmp, %{"TAG" => tag, "COOKIE" => host.cookie, "ADDRESS" => "::1"})
    assert {output, 0} = run(["connect", "--fly", "my-gpu-app"], show("host"), tmp, env: fly)
    assert shown(output) == [inspect(host.node)]

    args = ["connect", "--fly", "my-gpu-app", "--region"]
    assert {output, 0} = run(args ++ ["fra"], show("host"), tmp, env: fly)
    assert shown(output) == [inspect(host.node)]
    assert {output, 1} = run(args ++ ["syd"], "", tmp, env: fly)
    assert output =~ "no machine of my-gpu-app is running in syd"

    # A cookie that was set by `fly secrets` is not there to be read.
    fly = fake_fly(tmp, %{"TAG" => tag, "COOKIE" => "", "ADDRESS" => "::1"})
    assert {output, 1} = run(["connect", "--fly", "my-gpu-app"], "", tmp, env: fly)
    assert output =~ "has no RELEASE_COOKIE"

    given = [{"RELEASE_COOKIE", host.cookie} | fly]
    assert {output, 0} = run(["connect", "--fly", "my-gpu-app"], show("host"), tmp, env: given)
    assert shown(output) == [inspect(host.node)]

    assert {output, 1} = run(["connect", "--fly", "other"], "", tmp, env: fly)
    assert output =~ "fly status did not work"
  end

  # In the shape of what `fly status --json` prints, written by hand, with the values of this test in it.
  defp fake_fly(tmp, values) do
    bin = Path.join(tmp, "bin")
    File.mkdir_p!(bin)

    json =
      Enum.reduce(values, File.read!(@fly), fn {k, v}, s -> String.replace(s, "@#{k}@", v) end)

    File.write!(Path.join(tmp, "fly.json"), json)
    path = Path.join(bin, "fly")

    File.write!(path, """
    #!/bin/sh
    [ "$*" = "status --json --app my-gpu-app" ] || { echo "no such app: $*" >&2; exit 1; }
    cat #{ConnectScript.quote_word(Path.join(tmp, "fly.json"))}
    """)

    File.chmod!(path, 0o755)
    [{"PATH", bin <> ":" <> System.get_env("PATH")}]
  end

  unless System.find_executable("jq"), do: @tag(skip: "jq is not installed")

  test "the cookie is in no list of processes, and in no environment that it makes", %{
    tmp_dir: tmp
  } do
    host = host()
    file = HostNode.cookie_file(host, tmp)
    fly = fake_fly(tmp, %{"TAG" => "x-1", "COOKIE" => host.cookie, "ADDRESS" => "127.0.0.1"})

    for {args, env} <- [
          {["--cookie-file", file, "#{host.node}"], []},
          {["#{host.node}"], [{"RELEASE_COOKIE", host.cookie}]},
          # Here the name of the node is wrong, but the cookie has been read by then.
          {["--fly", "my-gpu-app"], fly}
        ] do
      look = fn ->
        watcher = Task.async(fn -> watch(host.cookie, %{}, 0) end)
        {output, _status} = run(["connect" | args], show("host"), tmp, env: env)
        send(watcher.pid, :stop)
        {seen, rounds} = Task.await(watcher, 60_000)
        {output, seen, rounds}
      end

      # On a slow machine it has to be looked at more than once.
      {output, seen, rounds} =
        Enum.reduce_while(1..20, {"", %{}, 0}, fn _, {_output, before, sum} ->
          {output, seen, rounds} = look.()
          all = {output, Map.merge(before, seen), sum + rounds}
          if sum + rounds > 20, do: {:halt, all}, else: {:cont, all}
        end)

      assert rounds > 20, "it was over before it was looked at"

      # The one who set the variable has it in the environment of the script itself, whoever that is.
      own? = fn {where, command} ->
        where == :environ and env != [] and
          command =~ ~r"^(\S*/)?(sh|dash) .*/gpu_sched'? '?connect" and
          not (command =~ ~r"bin/(iex|elixir|erl) ")
      end

      assert Enum.reject(Map.keys(seen), own?) == [], output
    end
  end

  # The host itself was started by the test, which does not mind.
  defp watch(cookie, seen, rounds) do
    now =
      for pid <- File.ls!("/proc"),
          pid =~ ~r/^\d+$/,
          {:ok, command} <- [File.read("/proc/#{pid}/cmdline")],
          not String.contains?(command, "-setcookie"),
          pid != System.pid(),
          where <- [:cmdline, :environ],
          {:ok, text} <- [File.read("/proc/#{pid}/#{where}")],
          String.contains?(text, cookie),
          into: seen,
          do: {{where, String.replace(command, <<0>>, " ")}, true}

    receive do
      :stop -> {now, rounds}
    after
      0 -> watch(cookie, now, rounds + 1)
    end
  end

  test "a visible node is warned, and is seen", %{tmp_dir: tmp} do
    host = host()
    file = HostNode.cookie_file(host, tmp)
    args = ["connect", "--visible", "--cookie-file", file, "#{host.node}"]
    assert {output, 0} = run(args, show("host in Node.list()"), tmp)
    assert shown(output) == ["true"]
    assert output =~ "prevent_overlapping_partitions"
  end

  test "a short name takes a short name", %{tmp_dir: tmp} do
    host = host(host: "localhost", longnames: false)
    file = HostNode.cookie_file(host, tmp)

    assert {output, 0} =
             run(["connect", "--cookie-file", file, "#{host.node}"], show("host"), tmp)

    assert shown(output) == [inspect(host.node)]
  end

  test "a node without epmd is found by its port", %{tmp_dir: tmp} do
    port = free_port()

    host = host(args: ["-start_epmd", "false", "-erl_epmd_port", "#{port}"])

    file = HostNode.cookie_file(host, tmp)
    args = ["connect", "--cookie-file", file, "--port", "#{port}", "#{host.node}"]
    assert {output, 0} = run(args, show("host"), tmp)
    assert shown(output) == [inspect(host.node)]
  end

  defp free_port do
    {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(socket)
    :ok = :gen_tcp.close(socket)
    port
  end

  test "says what is wrong, and that it failed", %{tmp_dir: tmp} do
    host = host()
    file = Path.join(tmp, "wrong")
    File.write!(file, "another")
    assert {output, 1} = run(["connect", "--cookie-file", file, "#{host.node}"], "", tmp)
    assert output =~ "the cookie is not that of #{host.node}"

    assert {output, 1} = run(["connect", "--cookie-file", file, "nobody@127.0.0.1"], "", tmp)
    assert output =~ "no node called nobody is registered"

    for {args, text} <- [
          {[], "say what to do"},
          {["connect"], "say which host"},
          {["connect", "--cookie-file"], "takes a value"},
          {["connect", "--port", "x", "h"], "take a number"},
          {["connect", "--what", "h"], "unknown option --what"},
          {["connect", "a", "b"], "one host at a time"},
          {["connect", "--fly", "a", "b"], "not both"},
          {["connect", "--visible", "--port", "1", "h"], "--visible or --port"}
        ] do
      assert {output, 64} = run(args, "", tmp)
      assert output =~ text
      assert output =~ "usage:"
    end

    assert {usage, 0} = run(["--help"], "", tmp)
    assert usage =~ "--visible"
  end

  test "a host without gpu_sched is said to be one, and the shell opens", %{tmp_dir: tmp} do
    host = HostNode.start(library: false)
    file = HostNode.cookie_file(host, tmp)

    assert {output, 0} =
             run(["connect", "--cookie-file", file, "#{host.node}"], show("host"), tmp)

    assert shown(output) == [inspect(host.node)]
    assert output =~ "does not have gpu_sched"
  end

  test "without a cookie it says so, and makes none", %{tmp_dir: tmp} do
    host = host()
    assert {output, 1} = run(["connect", "#{host.node}"], "", tmp)
    assert output =~ "there is no cookie"
    assert output =~ "--cookie-file FILE"
    refute File.exists?(Path.join(tmp, ".erlang.cookie"))

    # The other place where OTP has it.
    config = Path.join(tmp, "config")
    File.mkdir_p!(Path.join(config, "erlang"))
    place = Path.join(config, "erlang/.erlang.cookie")
    File.write!(place, host.cookie)
    File.chmod!(place, 0o400)
    env = [{"XDG_CONFIG_HOME", config}]
    assert {output, 0} = run(["connect", "#{host.node}"], show("host"), tmp, env: env)
    assert shown(output) == [inspect(host.node)]
  end

  test "a cookie of odd characters is a cookie, and what is none is said to be none", %{
    tmp_dir: tmp
  } do
    # Blanks, quotes, what a shell or printf would make something of, and a letter beyond ASCII.
    cookie = ~S(-n a b'"$HOME`%s\*) <> "é"
    host = host()
    # Not by an argument, which could not begin with a hyphen.
    true = HostNode.call(host, :erlang, :set_cookie, [String.to_atom(cookie)])
    given = [{"RELEASE_COOKIE", cookie}]
    assert {output, 0} = run(["connect", "#{host.node}"], show("host"), tmp, env: given)
    assert shown(output) == [inspect(host.node)]

    connect = fn text ->
      file = Path.join(tmp, "cookie")
      File.write!(file, text)
      run(["connect", "--cookie-file", file, "#{host.node}"], show("host"), tmp)
    end

    assert {output, 0} = connect.(cookie <> " \n\n")
    assert shown(output) == [inspect(host.node)]

    for {text, part} <- [
          {"", "cookie, is empty"},
          {" \n", "cookie, is empty"},
          {<<255, 254>>, "2 bytes that are not text"},
          {String.duplicate("a", 256), "256 bytes, of at most 255 characters"},
          {"日本", "characters that Erlang's handshake does not take"},
          {"another", "the cookie is not that of #{host.node}"}
        ] do
      assert {output, 1} = connect.(text)
      assert output =~ part
      refute output =~ "**"
    end
  end

  test "what is in the environment does not lead it astray", %{tmp_dir: tmp} do
    host = host(host: "::1")
    file = HostNode.cookie_file(host, tmp)
    # A link without a slash, called from its folder: a relative path that CDPATH would look for.
    File.ln_s!(Path.dirname(Path.dirname(ConnectScript.path())), Path.join(tmp, "client"))
    script = "client/bin/gpu_sched"
    args = ["connect", "--cookie-file", file, "#{host.node}"]
    options = [cd: tmp, stderr_to_stdout: true]

    env = ConnectScript.env(tmp, env: [{"CDPATH", tmp}, {"ERL_FLAGS", "-proto_dist  inet_tcp"}])
    {output, 1} = System.cmd(ConnectScript.shell(), [script | args], [env: env] ++ options)
    assert output =~ "speaks inet6_tcp"
    assert output =~ "-proto_dist inet_tcp"

    env = ConnectScript.env(tmp, env: [{"ERL_FLAGS", "-name other@127.0.0.1"}])
    {output, 1} = System.cmd(ConnectScript.shell(), [script | args], [env: env] ++ options)
    assert output =~ "-name or -sname is in ERL_AFLAGS"
  end

  test "modules that another compiler wrote are not half loaded", %{tmp_dir: tmp} do
    host = host()
    # What a newer OTP's compiler writes looks no better to an older one than this.
    :ok = HostNode.call(host, :code, :add_patha, [to_charlist(broken_module(tmp))]) |> ok()
    file = HostNode.cookie_file(host, tmp)
    typed = show("host") <> show("Code.ensure_loaded?(GpuSched)")
    assert {output, 0} = run(["connect", "--cookie-file", file, "#{host.node}"], typed, tmp)

    assert output =~
             "modules of gpu_sched on #{host.node} cannot be loaded here, GpuSched.Msgpack"

    assert shown(output) == [inspect(host.node), "false"]
  end

  test "a copy of its own is held against the host's", %{tmp_dir: tmp} do
    host = host()
    file = HostNode.cookie_file(host, tmp)
    vsn = to_string(Application.spec(:gpu_sched, :vsn))
    typed = show("{Node.list(:hidden), Application.spec(:gpu_sched, :vsn)}")

    connect = fn own ->
      args = ["connect", "--cookie-file", file, "#{host.node}"]
      {output, 0} = run(args, typed, tmp, env: [{"ERL_LIBS", copy(tmp, vsn, own)}])
      # It is connected all the same, and the copy is left as it is.
      assert [shown] = shown(output)
      assert shown =~ inspect(host.node) and shown =~ own
      refute output =~ "modules loaded from"
      output
    end

    assert connect.(vsn) =~ "gpu_sched #{vsn} on both sides"

    newer = connect.("99.1.0")
    assert newer =~ "gpu_sched 99.1.0 of its own, and #{host.node} has #{vsn}, which is older"
    assert newer =~ "Update gpu_sched on #{host.node}"

    older = connect.("0.0.1-old")
    assert older =~ "gpu_sched 0.0.1-old of its own, and #{host.node} has #{vsn}, which is newer"
    assert older =~ "Update gpu_sched here"

    assert connect.("mine") =~ "Update the older one"
  end

  # A folder of libraries, with this one in it, which says that it is of another version.
  defp copy(tmp, vsn, own) do
    libraries = Path.join(tmp, "libraries-#{own}")
    ebin = Path.join(libraries, "gpu_sched/ebin")
    File.mkdir_p!(ebin)
    File.cp_r!(Application.app_dir(:gpu_sched, "ebin"), ebin)
    app = Path.join(ebin, "gpu_sched.app")
    File.write!(app, app |> File.read!() |> String.replace(inspect(vsn), inspect(own)))
    libraries
  end

  defp ok(true), do: :ok

  defp broken_module(tmp) do
    folder = Path.join(tmp, "ebin")
    File.mkdir_p!(folder)
    File.write!(Path.join(folder, "Elixir.GpuSched.Msgpack.beam"), "FOR1 but nothing else")
    folder
  end

  test "doctor looks at everything, and ends", %{tmp_dir: tmp} do
    host = host()
    file = HostNode.cookie_file(host, tmp)
    assert {output, 0} = run(["doctor", "--cookie-file", file, "#{host.node}"], "", tmp)
    assert output =~ "GpuSched on #{host.node} is up"
    assert output =~ ~r/round trip \d+\.\d\d ms/
    assert output =~ ~r/bandwidth \d+\.\d MB/
  end

  unless File.exists?("/usr/bin/python3"),
    do: @tag(skip: "no /usr/bin/python3 to make a terminal")

  test "its terminal is closed, and nothing goes on or is left", %{tmp_dir: tmp} do
    host = host()
    file = HostNode.cookie_file(host, tmp)
    home = Path.join(tmp, "home")
    File.mkdir_p!(home)

    # Waits for the prompt, and then ends, and the terminal with it.
    terminal = """
    import os, pty, sys
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(sys.argv[1], sys.argv[1:])
    seen = b""
    while b"iex(" not in seen:
        seen += os.read(terminal, 65536)
    children = open(f"/proc/{pid}/task/{pid}/children").read()
    print(pid, children)
    """

    command = [ConnectScript.shell(), ConnectScript.path(), "connect", "--cookie-file", file]
    options = [env: [{"TERM", "xterm"} | ConnectScript.env(home)], cd: home]
    args = ["-c", terminal | command] ++ ["#{host.node}"]
    {output, 0} = System.cmd("/usr/bin/python3", args, options)
    assert [_script, _iex] = pids = output |> String.split() |> Enum.map(&String.to_integer/1)
    for pid <- pids, do: FakePort.until(fn -> TestNode.gone?(pid) end)
    assert Path.wildcard(Path.join(home, "gpu_sched.*")) == []
  end

  test "works through a link, and says where it belongs when it was copied", %{tmp_dir: tmp} do
    link = Path.join(tmp, "linked")
    File.ln_s!(ConnectScript.path(), link)

    {output, 1} =
      System.cmd(ConnectScript.shell(), [link, "connect", "nobody@127.0.0.1"],
        env: [{"RELEASE_COOKIE", "any"}],
        stderr_to_stdout: true
      )

    assert output =~ "no node called nobody"

    copy = Path.join(tmp, "copied")
    File.cp!(ConnectScript.path(), copy)

    {output, 1} =
      System.cmd(ConnectScript.shell(), [copy, "connect", "nobody@127.0.0.1"],
        stderr_to_stdout: true
      )

    assert output =~ "works from where it is in a checkout"
  end

  # As far as a Linux machine can be made to look like a Mac: nothing is there but what POSIX and macOS
  # have, and Elixir. There is no epmd either, which a hidden node does not need.
  for shell <- [["dash"], ["bash", "--posix"], ["busybox", "sh"]],
      path = System.find_executable(hd(shell)) do
    test "#{Enum.join(shell, " ")} runs it, with what POSIX has and no epmd", %{tmp_dir: tmp} do
      host = host()
      file = HostNode.cookie_file(host, tmp)
      tools = ToolsPath.posix(Path.join(tmp, "tools"), ~w(iex elixir erl))
      options = [shell: [unquote(path) | unquote(tl(shell))], env: [{"PATH", tools}]]

      typed = show("host") <> show(~s|:os.find_executable('timeout')|)
      args = ["--cookie-file", file, "#{host.node}"]
      assert {output, 0} = run(["connect" | args], typed, tmp, options)
      assert shown(output) == [inspect(host.node), "false"]
      assert {output, 0} = run(["doctor" | args], "", tmp, options)
      assert output =~ "GpuSched on #{host.node} is up"
      assert {output, 64} = run(["connect", "nobody@127.0.0.1" | args], "", tmp, options)
      assert output =~ "one host at a time"
    end
  end

  test "says which program is missing", %{tmp_dir: tmp} do
    tools = ToolsPath.posix(Path.join(tmp, "tools"), [])
    shell = [ConnectScript.shell()]

    run = fn args, more ->
      bin = ToolsPath.posix(Path.join(tmp, "tools"), more)
      run(args, "", tmp, shell: shell, env: [{"PATH", bin}])
    end

    assert {output, 1} = run.(["connect", "h"], [])
    assert output =~ "Elixir is not installed"
    assert {output, 1} = run.(["connect", "--fly", "a"], ~w(iex elixir erl))
    assert output =~ "fly is not installed"
    File.write!(Path.join(tools, "fly"), "#!/bin/sh\n")
    File.chmod!(Path.join(tools, "fly"), 0o755)
    assert {output, 1} = run.(["connect", "--fly", "a"], ~w(iex elixir erl))
    assert output =~ "jq is not installed"
  end
end
