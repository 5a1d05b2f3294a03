# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.UnrestTest do
  # What laptops and hosts do that nobody wishes for: they fall asleep in the middle of it, have each
  # other's name, come by the thousand, and are shut down under load. Whoever asked gets an answer, and
  # nobody else notices.
  use GpuSched.FakePortCase, async: false

  alias GpuSched.{HostNode, RealPort, TestNode}

  if reason = TestNode.missing(), do: @moduletag(skip: reason)
  @moduletag timeout: 180_000

  # Runs there in a process of its own, and sends what came of it.
  defp there(node, fun) do
    test = self()
    Node.spawn(node, Code, :eval_string, [fun, [test: test]])
  end

  # `n` processes on the node ask for something that is held until it is released.
  defp hold(client, server, n, options \\ "timeout: :infinity") do
    there(client, """
    for _ <- 1..#{n} do
      spawn(fn ->
        answer = GpuSched.infer({#{inspect(server)}, #{inspect(node())}}, "hold", %{}, #{options})
        send(test, {:answer, answer})
      end)
    end
    """)
  end

  test "a laptop that sleeps with requests under way has its answers when it wakes" do
    {server, _pid} = start()
    {_peer, asleep} = TestNode.client()
    {_peer, awake} = TestNode.client()
    hold(asleep, server, 20)
    until(fn -> seen(server)["held"] == 20 end)
    os_pid = TestNode.os_pid(asleep)
    TestNode.signal(os_pid, "STOP")

    try do
      # What it is owed is sent, and nobody waits for it to be taken.
      {:ok, _} = GpuSched.infer(server, "release", %{})

      for _ <- 1..100 do
        {:ok, _} = GpuSched.infer(server, "echo", %{})
        {:ok, _} = :erpc.call(awake, GpuSched, :infer, [{server, node()}, "echo", %{}])
      end

      until(fn -> seen(server)["held"] == 0 and taken(server) == {0, 0} end)
      refute_received {:answer, _}
    after
      TestNode.signal(os_pid, "CONT")
    end

    for _ <- 1..20, do: assert_receive({:answer, {:ok, _}})
  end

  test "while a host stands still a call lasts as long as it may, and is answered when it goes on" do
    host = HostNode.start(cookie: Atom.to_string(Node.get_cookie()))
    HostNode.scheduler(host)
    server = {GpuSched, host.node}
    {:ok, _} = GpuSched.infer(server, "echo", %{})
    os_pid = HostNode.os_pid(host)
    TestNode.signal(os_pid, "STOP")
    patient = Task.async(fn -> GpuSched.infer(server, "echo", %{}, timeout: :infinity) end)

    try do
      assert {:error, %Error{reason: :deadline_exceeded}} =
               GpuSched.infer(server, "echo", %{}, timeout: 100)

      request = GpuSched.async(server, "echo", %{}, timeout: 100)
      assert {:error, %Error{reason: :deadline_exceeded}} = GpuSched.await(request)
    after
      TestNode.signal(os_pid, "CONT")
    end

    assert {:ok, _} = Task.await(patient, 60_000)
    assert {:message_queue_len, 0} = Process.info(self(), :message_queue_len)
  end

  test "a host that is killed in the middle of a stream, and of a call, is an error to both" do
    host = HostNode.start(cookie: Atom.to_string(Node.get_cookie()))
    HostNode.scheduler(host)
    server = {GpuSched, host.node}
    held = Task.async(fn -> GpuSched.infer(server, "hold", %{}, timeout: :infinity) end)
    options = [parameters: [parts: 100], credit: 2, timeout: :infinity]

    until(fn ->
      HostNode.call(host, GpuSched, :stats, [GpuSched]) |> elem(1) |> Map.get("held") == 1
    end)

    error =
      assert_raise Error, fn ->
        server
        |> GpuSched.stream("parts", %{}, options)
        |> Stream.with_index()
        |> Enum.each(fn {_part, i} ->
          if i == 3, do: TestNode.signal(HostNode.os_pid(host), "KILL")
        end)
      end

    assert error.reason == :unavailable
    assert error.message =~ "#{host.node}"
    assert {:error, %Error{reason: :unavailable, message: text}} = Task.await(held, 60_000)
    assert text =~ "#{host.node}"
    # From now on it is said at once.
    assert {:error, %Error{reason: :unavailable}} = GpuSched.infer(server, "echo", %{})
    assert {:message_queue_len, 0} = Process.info(self(), :message_queue_len)
  end

  if reason = RealPort.minilm_missing(), do: @tag(skip: reason)

  test "what makes no sense is refused in words, and everybody else is answered" do
    {server, _pid} = RealPort.start(models: [[name: "minilm", path: RealPort.minilm()]])
    {:ok, _} = GpuSched.await_ready(server)
    {_peer, client} = TestNode.client()
    infer = fn inputs -> GpuSched.infer(server, "minilm", inputs, timeout: 60_000) end
    ids = fn tensor -> %{"input_ids" => Map.merge(%{"datatype" => "INT64"}, tensor)} end

    for {inputs, part} <- [
          {%{}, ~s(either "text" or "input_ids", got neither)},
          {["a"], "a list where a map from names to tensors belongs"},
          {%{"text" => nil}, "inputs.text: nil"},
          {%{"text" => ["a", 1]}, "inputs.text[1]: an integer"},
          {%{"text" => [["a"], ["b"]]}, "has shape [2, 1]"},
          {%{"text" => [<<255>>]}, "not UTF-8 at byte 0"},
          {%{"text" => ["a"], "input_ids" => [[1]]}, "got both"},
          {%{"input_ids" => [[1, 2], [3]]}, "1 elements, the rows before have 2"},
          {%{"input_ids" => [[-5]]}, "id -5 in row 0, column 0"},
          {ids.(%{"shape" => [2, 3], "data" => <<0::64>>}), "its shape takes 48"},
          {ids.(%{"shape" => [-2, 3], "data" => ""}), "not a list of sizes"},
          {ids.(%{"shape" => [1_000_000_000_000_000_000_000], "data" => ""}),
           "not a list of sizes"},
          {ids.(%{"shape" => [4_294_967_296, 4_294_967_296], "data" => ""}), "too many elements"},
          {ids.(%{"datatype" => "FLOAT", "shape" => [1], "data" => "a"}), ~s("FLOAT" is none)},
          {%{"text" => self()}, "inputs.text: this cannot be sent: a pid"},
          {%{"txet" => ["a"]}, "takes no such input"}
        ] do
      assert {:error, %Error{reason: :invalid_argument, message: text}} = infer.(inputs)
      assert text =~ part
      # The same from elsewhere.
      args = [{server, node()}, "minilm", inputs, [timeout: 60_000]]
      there = :erpc.call(client, GpuSched, :infer, args)
      assert {:error, %Error{reason: :invalid_argument, message: ^text}} = there
    end

    for model <- ["minilmm", "модель\n", "\e[2J"] do
      assert {:error, %Error{reason: :unknown_model}} = GpuSched.infer(server, model, %{})
    end

    for {inputs, kind} <- [{"", "a string"}, {<<1::3>>, "a bitstring"}, {self(), "a pid"}] do
      assert {:error, %Error{message: text}} = GpuSched.infer(server, "minilm", inputs)

      assert text =~ "#{kind} where a map" or
               text =~ "#{kind} that is not whole bytes where a map"
    end

    for model <- ["", String.duplicate("x", 100_000)] do
      assert {:error, %Error{message: text}} = GpuSched.infer(server, model, %{})
      assert text =~ "1 to 63 are possible"
    end

    for timeout <- [-5, 1.5, nil, :never, 10_000_000_000_000_000_000_000] do
      assert_raise ArgumentError, ~r/:timeout takes milliseconds/, fn ->
        GpuSched.infer(server, "minilm", %{}, timeout: timeout)
      end
    end

    # What looks odd and is none of that.
    odd = ["", "日本語 👩‍👩‍👧‍👦 \0 é", String.duplicate("a ", 500_000)]
    assert {:ok, %{"outputs" => outputs}} = infer.(%{"text" => odd})
    assert outputs["embedding"]["shape"] == [3, 384]
    assert {:ok, %{"outputs" => outputs}} = infer.(%{"text" => []})
    assert outputs["embedding"]["shape"] == [0, 384]
  end

  if reason = RealPort.missing(), do: @tag(skip: reason)

  test "ten thousand processes on a laptop are answered or refused, each of them" do
    {server, _pid} = RealPort.start()
    {:ok, _} = GpuSched.await_ready(server)
    {_peer, client} = TestNode.client()

    for {overload, reasons} <- [{":error", [:overloaded, :queue_full]}, {":wait", []}] do
      there(client, """
      me = self()

      for _ <- 1..10_000 do
        spawn(fn ->
          options = [timeout: :infinity, overload: #{overload}]
          data = %{"datatype" => "UINT8", "shape" => [1], "data" => "a"}
          inputs = %{"data" => data}

          send(me, {:answer,
            case GpuSched.infer({#{inspect(server)}, #{inspect(node())}}, "noop", inputs, options) do
              {:ok, _} -> :ok
              {:error, error} -> error.reason
            end})
        end)
      end

      answers = for _ <- 1..10_000, do: (receive do {:answer, answer} -> answer end)
      send(test, {:answers, Enum.frequencies(answers)})
      """)

      assert_receive {:answers, answers}
      assert answers |> Map.values() |> Enum.sum() == 10_000
      assert answers.ok > 0
      assert Map.keys(answers) -- [:ok | reasons] == []
    end

    assert {:ok, _} = GpuSched.infer(server, "noop", %{"data" => RealPort.bytes("a")})
  end

  test "the application is stopped under load, on the laptop and on the host" do
    host = HostNode.start(cookie: Atom.to_string(Node.get_cookie()))
    HostNode.scheduler(host)
    {_peer, client} = TestNode.client()
    true = :erpc.call(client, Node, :connect, [host.node])
    {:ok, _} = :erpc.call(client, Application, :ensure_all_started, [:gpu_sched])
    # Of the calls that end because of it the test says nothing else.
    :erpc.call(client, :logger, :set_primary_config, [:level, :none])

    load = fn ->
      there(client, """
      for _ <- 1..50 do
        spawn(fn ->
          call = fn call, n ->
            case GpuSched.infer({GpuSched, #{inspect(host.node)}}, "echo", %{}, timeout: 60_000) do
              {:ok, _} when n == 100 -> send(test, :warm) && call.(call, n + 1)
              {:ok, _} -> call.(call, n + 1)
              {:error, error} -> send(test, {:ended, error.reason})
            end
          end

          call.(call, 0)
        end)
      end
      """)

      for _ <- 1..50, do: assert_receive(:warm)
    end

    load.()
    :ok = :erpc.call(client, Application, :stop, [:gpu_sched])
    # Without the application a laptop's calls go by :erpc.
    {:ok, _} = :erpc.call(client, GpuSched, :infer, [{GpuSched, host.node}, "echo", %{}])
    :ok = :erpc.call(client, Application, :start, [:gpu_sched])
    {:ok, _} = :erpc.call(client, GpuSched, :infer, [{GpuSched, host.node}, "echo", %{}])
    load.()
    :ok = HostNode.call(host, Application, :stop, [:gpu_sched])

    # Those of the first time as well: they went on, or were told.
    reasons = for _ <- 1..100, do: assert_receive({:ended, _reason}) |> elem(1)
    assert Enum.uniq(reasons) -- [:closing, :unavailable] == []
  end

  test "two laptops of one name cut each other off, and the doctor says so beforehand" do
    host = HostNode.start()
    HostNode.scheduler(host)
    [first, second] = for _ <- 1..2, do: twin(host)
    assert HostNode.call(first, Node, :connect, [host.node])
    findings = HostNode.call(second, GpuSched.Doctor, :examine, [host.node])
    assert %{check: :names, level: :problem, text: text, advice: advice} = List.last(findings)
    assert text =~ "is connected to a node called #{first.node} already"
    assert advice =~ "another name"
    # Which did nothing to the first, nor to the host.
    assert host.node in HostNode.call(first, Node, :list, [:hidden]) or
             host.node in HostNode.call(first, Node, :list, [])

    # As it is without having asked: each call takes the connection over, and is answered.
    for laptop <- [second, first, second] do
      assert {:ok, _} =
               HostNode.call(laptop, GpuSched, :infer, [{GpuSched, host.node}, "echo", %{}])
    end
  end

  # Without epmd two nodes can have one name.
  defp twin(host) do
    laptop = HostNode.start(named: false, cookie: host.cookie)
    options = %{name_domain: :longnames, hidden: true, dist_listen: false}
    name = :"me_#{System.pid()}@127.0.0.1"
    {:ok, _} = HostNode.call(laptop, :net_kernel, :start, [name, options])
    true = HostNode.call(laptop, :erlang, :set_cookie, [String.to_atom(host.cookie)])
    %{laptop | node: name}
  end
end
