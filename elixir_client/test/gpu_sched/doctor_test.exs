# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.DoctorTest do
  # Every finding of the doctor, provoked with nodes that have what it finds.
  use ExUnit.Case, async: false

  alias GpuSched.{Doctor, FakePort, HostNode, RealPort, TestNode}
  alias GpuSched.Doctor.Host

  if reason = TestNode.missing() || FakePort.missing(), do: @moduletag(skip: reason)
  @moduletag capture_log: true, timeout: 120_000

  # What a laptop finds: one that has this library, and the host's cookie.
  defp laptop(host, options \\ []) do
    cookie = if host, do: host.cookie, else: "none"
    HostNode.start([name: "laptop", hidden: true, cookie: cookie] ++ options)
  end

  defp examine(laptop, target, options \\ []),
    do: HostNode.call(laptop, Doctor, :examine, [target, options])

  defp problems(findings), do: for(%{level: :problem, check: check} <- findings, do: check)

  defp find(findings, check) do
    Enum.find(findings, &(&1.check == check)) ||
      flunk("no #{check} among #{inspect(findings, pretty: true)}")
  end

  defp only_problem(findings, check) do
    assert problems(findings) == [check]
    finding = find(findings, check)
    assert finding.advice != ""
    finding.text
  end

  # A node that somebody registers with epmd, though none is there. Lasts as long as the test.
  defp register(name, port) do
    epmd = String.to_integer(System.get_env("ERL_EPMD_PORT") || "4369")
    {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, epmd, [:binary, active: false])
    request = <<120, port::16, 77, 0, 6::16, 5::16, byte_size(name)::16, name::binary, 0::16>>
    :ok = :gen_tcp.send(socket, [<<byte_size(request)::16>>, request])
    {:ok, <<118, 0, _creation::32>>} = :gen_tcp.recv(socket, 0)
    :"#{name}@127.0.0.1"
  end

  defp listen(options \\ []) do
    {:ok, socket} = :gen_tcp.listen(0, [ip: {127, 0, 0, 1}, active: false] ++ options)
    {:ok, port} = :inet.port(socket)
    {socket, port}
  end

  defp closed_port do
    {socket, port} = listen()
    :ok = :gen_tcp.close(socket)
    port
  end

  defp unique(name), do: "#{name}_#{System.unique_integer([:positive])}_#{System.pid()}"

  describe "this node" do
    test "has no name" do
      laptop = HostNode.start(named: false)
      assert examine(laptop, :"gpu@127.0.0.1") |> only_problem(:distribution) =~ "no name"
    end

    test "has -proto_dist twice" do
      host = HostNode.start(host: "::1")
      laptop = laptop(host, host: "::1", args: ["-proto_dist", "inet6_tcp"])

      # What is said without a doctor: nothing, but that it does not work (OTP 25), or does.
      connected? = HostNode.call(laptop, Node, :connect, [host.node])
      HostNode.call(laptop, Node, :disconnect, [host.node])
      finding = laptop |> examine(host.node) |> find(:proto_dist)
      assert finding.text =~ "given 2 times: inet6_tcp, inet6_tcp"
      assert finding.level == if(connected?, do: :note, else: :problem)
    end

    test "lacks -proto_dist, and has it where the host has not" do
      host = HostNode.start(host: "::1")
      laptop = laptop(host)
      refute HostNode.call(laptop, Node, :connect, [host.node])
      text = laptop |> examine(host.node) |> only_problem(:proto_dist)
      assert text =~ "answers over IPv6 (::1), and this node speaks IPv4"

      host = HostNode.start()
      laptop = laptop(host, host: "::1")
      text = laptop |> examine(host.node) |> only_problem(:proto_dist)
      assert text =~ "answers over IPv4 (127.0.0.1), and this node speaks IPv6"
    end

    test "has a long name where the host has a short one" do
      host = HostNode.start(host: "localhost", longnames: false)
      text = host |> laptop() |> examine(host.node) |> only_problem(:names)
      assert text =~ "a long name" and text =~ "a short one, #{host.node}"
    end

    test "asks for another name than the host's own" do
      host = HostNode.start()
      asked = host.node |> Atom.to_string() |> String.replace("127.0.0.1", "127.0.0.2")
      text = host |> laptop() |> examine(String.to_atom(asked)) |> only_problem(:names)
      assert text =~ "calls itself #{host.node}"
    end
  end

  describe "the way" do
    test "has no address" do
      text = laptop(nil) |> examine(:"gpu@no-such-host.invalid") |> only_problem(:address)
      assert text =~ "no-such-host.invalid has no address"
    end

    test "has no route, or one on which packets are lost" do
      # A listener with no room left for a connection: what is sent to it is dropped, as by a firewall.
      {socket, port} = listen(backlog: 1)
      fill(port)
      laptop = laptop(nil)
      HostNode.call(laptop, System, :put_env, ["ERL_EPMD_PORT", "#{port}"])
      text = laptop |> examine(:"gpu@127.0.0.1", timeout: 200) |> only_problem(:route)
      assert text =~ "127.0.0.1 does not answer"
      :gen_tcp.close(socket)
    end

    defp fill(port) do
      case :gen_tcp.connect({127, 0, 0, 1}, port, [], 200) do
        {:ok, _socket} -> fill(port)
        {:error, :timeout} -> :ok
      end
    end

    test "ends at a closed epmd" do
      laptop = laptop(nil)
      HostNode.call(laptop, System, :put_env, ["ERL_EPMD_PORT", "#{closed_port()}"])
      text = laptop |> examine(:"gpu@127.0.0.1") |> only_problem(:epmd)
      assert text =~ "where epmd belongs"
    end

    test "ends at something that is no epmd" do
      {socket, port} = listen()
      laptop = laptop(nil)
      HostNode.call(laptop, System, :put_env, ["ERL_EPMD_PORT", "#{port}"])

      Task.async(fn ->
        {:ok, client} = :gen_tcp.accept(socket)
        :gen_tcp.close(client)
      end)

      assert laptop |> examine(:"gpu@127.0.0.1") |> only_problem(:epmd) =~ "no epmd"
    end

    test "ends where no such node is registered" do
      host = HostNode.start()
      text = host |> laptop() |> examine(:"nobody@127.0.0.1") |> only_problem(:node)
      assert text =~ "no node called nobody"
      assert text =~ hd(String.split("#{host.node}", "@"))
    end

    test "ends at a closed port" do
      node = register(unique("shut"), closed_port())
      text = laptop(nil) |> examine(node) |> only_problem(:port)
      assert text =~ "is closed to us"
    end

    test "ends at something that is no node" do
      {socket, port} = listen()
      node = register(unique("odd"), port)

      Task.async(fn ->
        {:ok, client} = :gen_tcp.accept(socket)
        :gen_tcp.send(client, "HTTP/1.1 400 Bad Request\r\n\r\n")
        :gen_tcp.close(client)
      end)

      text = laptop(nil) |> examine(node) |> only_problem(:handshake)
      assert text =~ "does not speak Erlang's distribution"
    end

    test "ends at a node that allows others only" do
      host = HostNode.start()
      :ok = HostNode.call(host, :net_kernel, :allow, [[:"friend@127.0.0.1"]])
      assert host |> laptop() |> examine(host.node) |> only_problem(:handshake) =~ "refuses"
    end

    test "ends at a wrong cookie" do
      host = HostNode.start()
      laptop = laptop(nil)
      text = laptop |> examine(host.node) |> only_problem(:cookie)
      assert text =~ "not that of #{host.node}"
      # With the right one, for this host, there is nothing to be found.
      HostNode.call(laptop, :erlang, :set_cookie, [host.node, String.to_atom(host.cookie)])
      refute :cookie in (laptop |> examine(host.node) |> problems())
    end

    test "is open, and this node takes it not" do
      host = HostNode.start()
      laptop = laptop(host)
      :ok = HostNode.call(laptop, :net_kernel, :allow, [[:"friend@127.0.0.1"]])
      text = laptop |> examine(host.node) |> only_problem(:connection)
      assert text =~ "still no connection"
    end
  end

  describe "the host" do
    test "is well" do
      host = HostNode.start()
      HostNode.scheduler(host, models: [[name: "minilm", path: "/x"]])
      findings = host |> laptop() |> examine(host.node)
      assert problems(findings) == []

      for check <- [:network, :connection, :otp, :elixir, :version, :scheduler, :model] do
        assert find(findings, check).level == :ok, inspect(findings)
      end

      # A laptop is hidden, and told what that means. The fake port has no devices at all.
      assert find(findings, :hidden).text =~ ":pg does not see"
      assert %{level: :warning, text: text} = find(findings, :gpu)
      assert text =~ "no GPU"
      assert find(findings, :round_trip).text =~ ~r/round trip \d+\.\d\d ms/
      assert find(findings, :bandwidth).text =~ ~r/\d+\.\d MB\/s/

      # From the connection on, it is not looked for again.
      refute :network in (host |> laptop() |> examine(host.node) |> tl() |> Enum.map(& &1.check))
    end

    test "is this node itself" do
      host = HostNode.start()
      HostNode.scheduler(host)
      findings = examine(host, host.node)
      assert problems(findings) == []
      assert find(findings, :network).text =~ "is this node"
    end

    test "does not have gpu_sched" do
      host = HostNode.start(library: false)
      text = host |> laptop() |> examine(host.node) |> only_problem(:gpu_sched)
      assert text =~ "does not have gpu_sched"
    end

    test "has a gpu_sched that is not started, or too old to say" do
      host = HostNode.start(library: :path)
      laptop = laptop(host)
      # Without the application there are no schedulers.
      assert laptop |> examine(host.node) |> only_problem(:scheduler) =~ "no scheduler runs"

      old = HostNode.start(library: false)
      {module, binary, file} = :code.get_object_code(GpuSched)
      {:module, _} = HostNode.call(old, :code, :load_binary, [module, file, binary])
      text = old |> laptop() |> examine(old.node) |> only_problem(:gpu_sched)
      assert text =~ "schedulers is undefined there"
    end

    test "has another version of gpu_sched" do
      host = HostNode.start()
      HostNode.scheduler(host, models: [[name: "minilm", path: "/x"]])
      laptop = HostNode.start(library: :path, cookie: host.cookie, hidden: true)
      app = {:application, :gpu_sched, [vsn: ~c"0.0.9", modules: []]}
      :ok = HostNode.call(laptop, :application, :load, [app])

      assert %{level: :warning, text: text} = laptop |> examine(host.node) |> find(:version)
      assert text =~ "0.0.9 here, #{Application.spec(:gpu_sched, :vsn)} on #{host.node}"
    end

    test "has another Elixir, or none, or another OTP" do
      host = HostNode.start()
      laptop = laptop(host)

      System
      |> fake_version("1.99.0")
      |> then(fn {m, f, b} -> HostNode.call(host, :code, :load_binary, [m, f, b]) end)

      assert %{level: :warning, text: text} = laptop |> examine(host.node) |> find(:elixir)
      assert text =~ "#{System.version()} here, 1.99.0 on #{host.node}"

      bare = HostNode.start(library: false)
      assert %{level: :note} = bare |> laptop() |> examine(bare.node) |> find(:elixir)

      # There is one OTP on this machine: the laptop says that it is another.
      true = HostNode.call(laptop, Node, :connect, [host.node])
      ours = %{otp: "24", elixir: System.version()}
      [otp | _] = HostNode.call(laptop, Host, :versions, [host.node, ours])
      assert otp.level == :warning
      assert otp.text =~ "24 here, #{System.otp_release()} on #{host.node}"
    end

    # The code of a module System that knows nothing but its version.
    defp fake_version(module, version) do
      forms = [
        {:attribute, 1, :module, module},
        {:attribute, 1, :export, [version: 0]},
        {:function, 1, :version, 0, [{:clause, 1, [], [], [:erl_parse.abstract(version)]}]}
      ]

      {:ok, ^module, binary} = :compile.forms(forms)
      {module, ~c"fake", binary}
    end

    test "and others are visible to this node, which reaches one of them only" do
      one = HostNode.start()
      other = HostNode.start(cookie: one.cookie)
      true = HostNode.call(one, Node, :connect, [other.node])
      laptop = HostNode.start(cookie: one.cookie, args: ["-connect_all", "false"])
      assert %{level: :warning} = finding = laptop |> examine(one.node) |> find(:hidden)
      assert finding.text =~ "not connected to #{other.node}"
      assert finding.advice =~ "prevent_overlapping_partitions"
    end

    test "has no scheduler, or none of that name" do
      host = HostNode.start()
      laptop = laptop(host)
      assert laptop |> examine(host.node) |> only_problem(:scheduler) =~ "no scheduler runs"

      HostNode.scheduler(host, name: MyApp.Gpu)
      text = laptop |> examine({MyApp.Other, host.node}) |> only_problem(:scheduler)
      assert text =~ "there are: MyApp.Gpu"
      refute :scheduler in (laptop |> examine({MyApp.Gpu, host.node}) |> problems())
    end

    test "has a scheduler whose sched-port is down" do
      host = HostNode.start()
      HostNode.scheduler(host, restart_backoff: {60_000, 60_000})
      laptop = laptop(host)
      {:ok, %{"pid" => pid}} = HostNode.call(host, GpuSched, :stats, [GpuSched])
      TestNode.signal(pid, "KILL")

      FakePort.until(fn ->
        match?([%{state: :down}], HostNode.call(host, GpuSched.Directory, :schedulers, []))
      end)

      assert laptop |> examine(host.node) |> only_problem(:sched_port) =~ "its sched-port is down"
    end

    test "has no model" do
      host = HostNode.start()
      HostNode.scheduler(host)
      assert %{level: :warning} = host |> laptop() |> examine(host.node) |> find(:model)
    end

    if reason = RealPort.missing(), do: @tag(skip: reason)

    test "has a model that could not be loaded" do
      host = HostNode.start()
      models = [[name: "minilm", engine: "synthetic", parameters: [colour: "red"]]]
      HostNode.scheduler(host, port_path: RealPort.path(), models: models)
      {:error, _} = HostNode.call(host, GpuSched, :await_ready, [GpuSched, "minilm"])
      text = host |> laptop() |> examine(host.node) |> only_problem(:model)
      assert text =~ "minilm of GpuSched on #{host.node} could not be loaded: "
      assert text =~ "colour"
    end
  end

  test "GpuSched.doctor/1 prints it, and answers what failed" do
    gone = :"nobody@127.0.0.1"

    output =
      ExUnit.CaptureIO.capture_io(fn ->
        assert GpuSched.doctor(gone) == {:error, [:node]}
      end)

    assert output =~ "WRONG  no node called nobody is registered on 127.0.0.1"
  end
end
