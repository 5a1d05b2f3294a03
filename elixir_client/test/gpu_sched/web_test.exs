# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.WebTest do
  # The page and the metrics over HTTP, as a client, a browser and somebody unfriendly see them.
  use ExUnit.Case, async: false

  alias GpuSched.{Browser, Error, RealPort, Web}

  @moduletag capture_log: true, timeout: 120_000

  @missing_inets unless(Code.ensure_loaded?(:inets),
                   do: "OTP's :inets is not installed (Debian: erlang-inets)"
                 )

  defp web(opts) do
    pid = start_supervised!({Web, [port: 0] ++ opts})
    Web.port(pid)
  end

  # A request as bytes, and what comes back.
  defp raw(port, text) do
    {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
    :ok = :gen_tcp.send(socket, text)
    answer = read_all(socket, "")
    :gen_tcp.close(socket)
    answer
  end

  defp connect(port) do
    {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
    socket
  end

  # Waits for no answer, which may not come before the server has waited for more.
  defp rude(port, text) do
    {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
    :ok = :gen_tcp.send(socket, text)
    :ok = :gen_tcp.close(socket)
  end

  defp read_all(socket, acc) do
    case :gen_tcp.recv(socket, 0, 20_000) do
      {:ok, more} -> read_all(socket, acc <> more)
      {:error, _closed} -> acc
    end
  end

  defp get(port, path, method \\ "GET", host \\ "127.0.0.1") do
    answer = raw(port, "#{method} #{path} HTTP/1.1\r\nHost: #{host}\r\nConnection: close\r\n\r\n")
    [head, body | _] = String.split(answer, "\r\n\r\n", parts: 2) ++ [""]
    ["HTTP/1.1 " <> status | headers] = String.split(head, "\r\n")

    headers =
      Map.new(headers, fn line ->
        [name, value] = String.split(line, ":", parts: 2)
        {String.downcase(name), String.trim(value)}
      end)

    {status |> String.split() |> hd() |> String.to_integer(), headers, body}
  end

  describe "serves" do
    if @missing_inets, do: @describetag(skip: @missing_inets)
    if !@missing_inets && RealPort.missing(), do: @describetag(skip: RealPort.missing())

    test "metrics, the state and the page" do
      {server, _pid} = RealPort.start()
      {:ok, _} = GpuSched.await_ready(server)
      {:ok, _} = GpuSched.infer(server, "noop", %{data: [1]})
      port = web(server: server)

      assert {200, %{"content-type" => "text/plain; version=0.0.4" <> _}, text} =
               get(port, "/metrics")

      assert text =~ ~s(nv_inference_request_success{model="noop",version="1"} 1\n)

      assert {200, %{"content-type" => "application/json", "cache-control" => "no-store"}, json} =
               get(port, "/state.json?t=1")

      assert {:ok, %{"models" => [%{"name" => "noop"}], "devices" => [_ | _], "server" => name}} =
               GpuSched.Json.decode(json)

      assert name == inspect(server)

      assert {200, %{"content-type" => "text/html" <> _} = headers, page} = get(port, "/")
      assert page =~ "<!doctype html>"
      # Nothing from elsewhere, and nothing may be.
      refute page =~ ~r/src=|@import|url\(/
      refute Regex.replace(~r/createElementNS\("[^"]*"/, page, "") =~ ~r/https?:/
      assert headers["content-security-policy"] =~ "default-src 'none'"
      assert {200, %{"content-length" => n}, ""} = get(port, "/", "HEAD")
      assert String.to_integer(n) == byte_size(page)
    end

    test "nothing else" do
      {server, _pid} = RealPort.start()
      port = web(server: server)
      assert {404, _, _} = get(port, "/etc/passwd")
      assert {404, _, _} = get(port, "/../../etc/passwd")
      assert {405, _, _} = get(port, "/", "DELETE")
      # What is no request at all harms nobody.
      rude(port, "nonsense\r\n\r\n")

      rude(
        port,
        "GET / HTTP/1.1\r\n" <>
          String.duplicate("X: #{String.duplicate("y", 900)}\r\n", 60) <> "\r\n"
      )

      assert {200, _, _} = get(port, "/metrics")
    end

    test "no line without end" do
      {server, _pid} = RealPort.start()
      port = web(server: server)
      long = raw(port, "GET /#{String.duplicate("x", 4_000)} HTTP/1.1\r\nHost: localhost\r\n\r\n")
      assert long =~ ~r/^HTTP\/1.1 414 /

      # It is not read to its end: the connection is closed while there is more to come.
      {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
      :ok = :gen_tcp.send(socket, "GET /" <> String.duplicate("x", 4_000))
      assert read_all(socket, "") =~ " 414 "
      assert {200, _, _} = get(port, "/metrics")
    end

    test "so many at a time, and none that says nothing for ever" do
      {server, _pid} = RealPort.start()
      port = web(server: server, idle: 1)
      ask = "HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n"

      # Each asks once, and keeps its connection.
      sockets =
        for _ <- 1..64 do
          socket = connect(port)
          :ok = :gen_tcp.send(socket, ask)
          assert {:ok, "HTTP/1.1 200" <> _} = :gen_tcp.recv(socket, 0)
          socket
        end

      assert raw(port, ask) =~ "503"
      # They are closed when they have said nothing for so long, and others come in.
      for socket <- sockets, do: assert({:error, :closed} = :gen_tcp.recv(socket, 0, 60_000))
      GpuSched.FakePort.until(fn -> match?({200, _, _}, get(port, "/metrics")) end)
    end

    test "a thousand requests on a connection, and then on another" do
      {server, _pid} = RealPort.start()
      port = web(server: server)
      socket = connect(port)
      ask = "HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n"

      answered =
        Enum.take_while(1..1_100, fn _ ->
          with :ok <- :gen_tcp.send(socket, ask),
               {:ok, "HTTP/1.1 200" <> _} <- :gen_tcp.recv(socket, 0),
               do: true,
               else: ({:error, _closed} -> false)
        end)

      assert length(answered) in 999..1_001
      assert {200, _, _} = get(port, "/metrics")
    end

    test "a browser that never reads is let go, and holds nobody up" do
      {server, _pid} = RealPort.start()
      port = web(server: server, idle: 1)

      # It asks for more than fits between the two, and reads nothing of it.
      deaf =
        for _ <- 1..64 do
          {:ok, socket} =
            :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false, recbuf: 4_096])

          ask = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
          :ok = :gen_tcp.send(socket, String.duplicate(ask, 600))
          socket
        end

      GpuSched.FakePort.until(fn -> match?({200, _, _}, get(port, "/metrics")) end)
      for socket <- deaf, do: :gen_tcp.close(socket)
    end

    test "nobody that calls it by a name that is not its own" do
      {server, _pid} = RealPort.start()
      port = web(server: server, hosts: ["GPU.internal"])

      for host <- [
            "localhost",
            "LOCALHOST:9464",
            "127.0.0.1",
            "127.0.0.1:1",
            "[::1]:9464",
            "gpu.internal:80"
          ] do
        assert {200, _, _} = get(port, "/state.json", "GET", host)
      end

      for host <- [
            "evil.example",
            "evil.example:9464",
            "localhost.evil.example",
            "1.2.3.4.evil.example",
            "[::1].evil"
          ] do
        assert {403, _, text} = get(port, "/state.json", "GET", host)
        assert text =~ ":hosts"
      end
    end

    test "that the scheduler is gone" do
      {server, _pid} = RealPort.start()
      port = web(server: server)
      stop_supervised!(server)
      # Nothing was kept, as nobody asked before.
      assert {503, _, text} = get(port, "/metrics")
      assert text =~ "no scheduler is running"
      assert {503, _, json} = get(port, "/state.json")
      assert {:ok, %{"error" => _}} = GpuSched.Json.decode(json)
    end

    test "on the loopback interface alone unless told otherwise, and frees its port" do
      {server, _pid} = RealPort.start()
      port = web(server: server)
      # All of 127/8 is this machine, and only one address of it listens.
      assert {:error, :econnrefused} = :gen_tcp.connect({127, 0, 0, 2}, port, [])
      assert {:error, _} = start_supervised({Web, server: server, port: port}, id: :second)
      stop_supervised!(Web)
      # The kernel may take a moment.
      refused = {:error, :econnrefused}
      GpuSched.FakePort.until(fn -> :gen_tcp.connect({127, 0, 0, 1}, port, []) == refused end)
    end

    if reason = Browser.missing(), do: @tag(skip: reason)
    @tag :tmp_dir
    test "a page that draws, in a browser", %{tmp_dir: dir} do
      slow = [name: "slow", engine: "synthetic", parameters: [a_us: 300_000_000]]
      models = [[name: "noop", engine: "synthetic"], slow]
      {server, _pid} = RealPort.start(port_options: [cpu_devices: 2], models: models)
      {:ok, _} = GpuSched.await_ready(server)
      # The browser's clock runs ahead: it asks again at once.
      port = web(server: server, fresh_ms: 0)

      # One that is under way all the time.
      held = GpuSched.async(server, "slow", %{data: [1]}, timeout: :infinity)

      # Load, for as long as the browser looks.
      load =
        spawn_link(fn ->
          Stream.repeatedly(fn -> GpuSched.infer(server, "noop", %{data: [1]}) end)
          |> Stream.run()
        end)

      {0, dom, console} = Browser.dom("http://127.0.0.1:#{port}/", dir, 6_000)
      Process.unlink(load)
      Process.exit(load, :kill)
      assert console == []
      assert dom =~ ~s(<p id="trouble" hidden)

      for chart <- ~w(load latency batch waiting busy) do
        [figure] = Regex.run(~r/<figure id="chart-#{chart}">.*?<\/figure>/s, dom)
        assert figure =~ ~r/<path d="M[\d.]+ [\d.]+/, chart
      end

      assert dom =~ ~r/answered [\d,.]+\/s/
      assert dom =~ ~s(<td>noop</td><td class="words">ready</td>)
      assert dom =~ ~s(<td>cpu:0</td><td class="words">up</td>) and dom =~ "<td>cpu:1</td>"
      assert dom =~ "<td>#{node()}</td>"
      GpuSched.cancel(held)
    end
  end

  test "what was answered half a second ago is not asked for again" do
    table = Web.Cache.new(500)
    ok = fn value -> fn -> {:ok, value} end end
    # What went wrong is not kept.
    assert Web.Cache.fetch(table, :state, 0, fn -> {:error, :gone} end) == {:error, :gone}
    assert Web.Cache.fetch(table, :state, 0, ok.(1)) == {:ok, 1}
    assert Web.Cache.fetch(table, :state, 499, ok.(2)) == {:ok, 1}
    assert Web.Cache.fetch(table, :state, 500, ok.(2)) == {:ok, 2}
    assert Web.Cache.fetch(table, :other, 500, ok.(3)) == {:ok, 3}
  end

  test "options are checked" do
    assert_raise ArgumentError, ~r/server:/, fn -> Web.start_link([]) end
    assert_raise ArgumentError, ~r/:hosts/, fn -> Web.start_link(server: :a, hosts: "x") end
    assert_raise ArgumentError, ~r/:port/, fn -> Web.start_link(server: :a, port: 99_999) end

    assert_raise ArgumentError, ~r/unknown option :host/, fn ->
      Web.start_link(server: :a, host: "x")
    end
  end

  if @missing_inets do
    test "without inets it says what to install" do
      Process.flag(:trap_exit, true)
      assert {:error, %Error{reason: :not_supported, message: text}} = Web.start_link(server: :a)
      assert text =~ "erlang-inets"
    end
  else
    test "without inets it says what to install" do
      # As if it were not there: it is taken off the path for a moment.
      path = :inets |> :code.which() |> Path.dirname() |> to_charlist()
      modules = [:inets, :httpd]

      for module <- modules do
        :code.purge(module)
        :code.delete(module)
      end

      true = :code.del_path(path)

      on_exit(fn ->
        :code.add_pathz(path)
        for module <- modules, do: {:module, _} = :code.ensure_loaded(module)
      end)

      Process.flag(:trap_exit, true)
      assert {:error, %Error{reason: :not_supported, message: text}} = Web.start_link(server: :a)
      assert text =~ "erlang-inets" and text =~ "extra_applications"
    end
  end
end
