# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.LinkTest do
  # Requests from another node that has this library: gathered, and in pieces where they are large.
  use ExUnit.Case, async: false

  alias GpuSched.{FakePort, HostNode, LinkScript, Pieces, TestNode}
  alias GpuSched.Link.{Body, Bulk, Pace}

  if reason = TestNode.missing() || FakePort.missing(), do: @moduletag(skip: reason)
  @moduletag capture_log: true, timeout: 120_000

  defp pair(port_options \\ [], options \\ []) do
    host = HostNode.start()
    HostNode.scheduler(host, [port_options: port_options] ++ options)
    laptop = HostNode.start(name: "laptop", cookie: host.cookie, hidden: true)
    true = HostNode.call(laptop, Node, :connect, [host.node])
    {host, laptop, {GpuSched, host.node}}
  end

  defp infer(laptop, server, model, inputs \\ %{}, options \\ []),
    do: HostNode.call(laptop, GpuSched, :infer, [server, model, inputs, options])

  defp seen(host) do
    {:ok, seen} = HostNode.call(host, GpuSched, :stats, [GpuSched, [timeout: 60_000]])
    seen
  end

  # Credit that is taken at the host.
  defp taken(host), do: HostNode.call(host, FakePort, :taken, [GpuSched])

  defp bytes(n),
    do: %{"datatype" => "UINT8", "shape" => [n], "data" => :crypto.strong_rand_bytes(n)}

  test "answers come to those who asked, from many processes" do
    {host, laptop, server} = pair()
    assert HostNode.call(laptop, LinkScript, :echo, [server, 64, 50]) == []
    assert is_pid(HostNode.call(laptop, LinkScript, :link, [host.node]))
    assert seen(host)["infers"] == 64 * 50
    # Their share is that of their node, and they were gathered.
    assert seen(host)["clients"] |> Enum.uniq() == [Atom.to_string(laptop.node)]
    assert length(Enum.uniq(seen(host)["frames"])) < 64 * 50
    FakePort.until(fn -> taken(host) == {0, 0} end)
  end

  test "options and errors are those of a local request" do
    {host, laptop, server} = pair([], client: "the scheduler's")
    assert {:ok, _} = infer(laptop, server, "echo", %{}, priority: 3)
    assert {:ok, _} = infer(laptop, server, "echo", %{}, client: "mine", parameters: [a: 1])
    assert seen(host)["clients"] == ["the scheduler's", "mine"]
    assert seen(host)["order"] == [3, nil]

    assert {:error, %{reason: :unknown_model}} = infer(laptop, server, "nothing")

    assert {:error, %{reason: :invalid_argument, message: text}} =
             infer(laptop, server, "echo", %{"x" => self()})

    assert text =~ "a pid"

    assert {:error, %{reason: :unavailable, message: text}} =
             infer(laptop, {MyApp.Other, host.node}, "echo")

    assert text =~ "no scheduler is running as MyApp.Other on #{host.node}"
    # It comes late, and is found then.
    HostNode.scheduler(host, name: MyApp.Other)
    assert {:ok, _} = infer(laptop, {MyApp.Other, host.node}, "echo")
  end

  test "a deadline is kept on both sides" do
    {host, laptop, server} = pair()
    # Opens the link, which takes of nobody's time.
    assert {:ok, _} = infer(laptop, server, "echo", %{}, timeout: :infinity)

    assert {:error, %{reason: :deadline_exceeded}} =
             infer(laptop, server, "hold", %{}, timeout: 50)

    FakePort.until(fn -> length(seen(host)["deadlines"]) == 2 end)
    assert [nil, deadline] = seen(host)["deadlines"]
    assert is_integer(deadline)
    FakePort.until(fn -> seen(host)["held"] == 0 and taken(host) == {0, 0} end)
  end

  test "the way is learnt there as well, and left out of what the scheduler has" do
    {host, laptop, server} = pair()
    assert {:ok, _} = infer(laptop, server, "echo", %{}, timeout: :infinity)
    way = HostNode.call(laptop, LinkScript, :earlier, [host.node])
    assert way > 0
    # Who waits for credit, and large bodies, say nothing of it.
    large = %{"x" => :binary.copy("x", 2 * 1_048_576)}
    assert {:ok, _} = infer(laptop, server, "echo", large)
    assert {:ok, _} = infer(laptop, server, "echo", %{}, overload: :wait)
    assert HostNode.call(laptop, LinkScript, :earlier, [host.node]) == way

    # All clocks are this machine's. It is to be done so much earlier than in a minute, and once on the
    # way later, since the host counts from when it comes.
    before = GpuSched.Admission.now()
    assert {:ok, _} = infer(laptop, server, "echo", %{}, timeout: 60_000)
    now = GpuSched.Admission.now()
    deadline = List.last(seen(host)["deadlines"])
    assert deadline >= before + 60_000_000_000 - way - 1_000_000
    assert deadline <= now + 60_000_000_000 - way
  end

  test "a caller that dies takes its request along, and so does its node" do
    {host, laptop, server} = pair()
    large = %{"x" => bytes(2_000_000)}

    for inputs <- [%{}, large] do
      pid = HostNode.call(laptop, LinkScript, :hold, [server, inputs, [timeout: :infinity]])
      FakePort.until(fn -> seen(host)["held"] == 1 end)
      HostNode.call(laptop, Process, :exit, [pid, :kill])
      FakePort.until(fn -> seen(host)["held"] == 0 and taken(host) == {0, 0} end)
    end

    for inputs <- [%{}, large],
        do: HostNode.call(laptop, LinkScript, :hold, [server, inputs, [timeout: :infinity]])

    FakePort.until(fn -> seen(host)["held"] == 2 end)
    laptop |> HostNode.os_pid() |> TestNode.signal("KILL")
    FakePort.until(fn -> seen(host)["held"] == 0 and taken(host) == {0, 0} end)
  end

  test "credit that is used up is refused at once, or waited for" do
    {host, laptop, server} = pair(requests: 1)
    holder = HostNode.call(laptop, LinkScript, :hold, [server, %{}, [timeout: :infinity]])
    FakePort.until(fn -> seen(host)["held"] == 1 end)
    assert {:error, %{reason: :overloaded, retry_after_ms: ms}} = infer(laptop, server, "echo")
    assert ms > 0

    wait = [overload: :wait, timeout: 50]
    assert {:error, %{reason: :deadline_exceeded}} = infer(laptop, server, "echo", %{}, wait)

    waiting =
      Task.async(fn -> infer(laptop, server, "echo", %{}, overload: :wait, timeout: 60_000) end)

    FakePort.until(fn -> waiting(host) == 1 end)
    HostNode.call(laptop, Process, :exit, [holder, :kill])
    assert {:ok, _} = Task.await(waiting, 60_000)
    FakePort.until(fn -> taken(host) == {0, 0} and waiting(host) == 0 end)
  end

  defp waiting(host) do
    pid = HostNode.call(host, Process, :whereis, [GpuSched])
    map_size(HostNode.call(host, :sys, :get_state, [pid]).waiting)
  end

  test "sched-port dies, and what was in flight is sent again; the scheduler ends, and it is said" do
    {host, laptop, server} = pair()
    held = Task.async(fn -> infer(laptop, server, "hold", %{}, timeout: 60_000) end)
    FakePort.until(fn -> seen(host)["held"] == 1 end)
    TestNode.signal(seen(host)["pid"], "KILL")

    FakePort.until(fn ->
      match?({:ok, %{"held" => 1}}, HostNode.call(host, GpuSched, :stats, [GpuSched]))
    end)

    {:ok, _} = infer(laptop, server, "release")
    assert {:ok, _} = Task.await(held, 60_000)

    held = Task.async(fn -> infer(laptop, server, "hold", %{}, timeout: 60_000) end)
    FakePort.until(fn -> seen(host)["held"] == 1 end)
    pid = HostNode.call(host, Process, :whereis, [GpuSched])
    HostNode.call(host, Process, :exit, [pid, :kill])
    assert {:error, %{reason: :unavailable, message: text}} = Task.await(held, 60_000)
    assert text =~ "ended while the request was in flight"
  end

  test "large inputs and large results arrive as they were" do
    {host, laptop, server} = pair()

    for size <- [1_048_577, 5_000_000] do
      tensor = bytes(size)
      assert {:ok, result} = infer(laptop, server, "crc", %{"data" => tensor})
      <<crc::little-32>> = result["outputs"]["crc"]["data"]
      assert crc == :erlang.crc32(tensor["data"])
    end

    # A result of four megabytes to a small question, and to a large one.
    for inputs <- [%{}, %{"x" => bytes(2_000_000)}] do
      assert {:ok, result} = infer(laptop, server, "big", inputs, parameters: [bytes: 4_000_000])
      assert result["outputs"]["data"]["data"] == :binary.copy(<<5>>, 4_000_000)
    end

    # Inputs that are large without a large binary in them.
    many = for n <- 1..200_000, do: "text #{n}"

    assert {:ok, result} =
             infer(laptop, server, "echo", %{"x" => many}, output: :list, timeout: 60_000)

    assert result["outputs"]["x"] == many

    assert {:error, %{reason: :unknown_model}} =
             infer(laptop, server, "nothing", %{"x" => bytes(2_000_000)})

    FakePort.until(fn -> taken(host) == {0, 0} end)
  end

  test "a caller that dies with half of a large result leaves nothing behind" do
    {host, laptop, server} = pair()
    options = [parameters: [bytes: 16_000_000], timeout: :infinity]
    pid = HostNode.call(laptop, LinkScript, :hold, [server, %{}, options])
    FakePort.until(fn -> seen(host)["held"] == 1 end)
    HostNode.call(laptop, LinkScript, :freeze, [pid])

    FakePort.until(fn ->
      HostNode.call(laptop, Process, :info, [pid, :status]) == {:status, :suspended}
    end)

    {:ok, _} = infer(laptop, server, "release")
    FakePort.until(fn -> HostNode.call(host, LinkScript, :helpers, []) == 1 end)
    HostNode.call(laptop, Process, :exit, [pid, :kill])
    FakePort.until(fn -> HostNode.call(host, LinkScript, :helpers, []) == 0 end)
  end

  test "nothing is left in a caller's mailbox, and no monitor" do
    {_host, laptop, server} = pair()

    assert {[message_queue_len: 0, monitors: []], _} =
             HostNode.call(laptop, LinkScript, :leftovers, [server])
  end

  test "a small call is answered while pieces of a large one are still to be sent" do
    {host, laptop, server} = pair()
    # Its acknowledgements are kept back, so it stands still in the middle.
    args = [server, host.node, 16_000_000]
    assert {{:ok, _}, 1, {:ok, large}} = HostNode.call(laptop, LinkScript, :beside, args)
    assert %{"outputs" => %{"crc" => _}} = large
  end

  test "async, infer_many and :any go by the link as well" do
    {host, laptop, server} = pair()
    inputs = for n <- 1..100, do: %{x: [n]}
    many = [server, "echo", inputs, [max_concurrency: 16]]
    assert HostNode.call(laptop, LinkScript, :many, many) == 100
    HostNode.scheduler(host, name: MyApp.Any, models: [[name: "echo", path: "/x"]])
    assert HostNode.call(laptop, LinkScript, :many, [:any | tl(many)]) == 100
  end

  test "a node that has no link is called by :erpc" do
    {host, laptop, server} = pair()
    :ok = HostNode.call(laptop, Application, :stop, [:gpu_sched])
    assert HostNode.call(laptop, LinkScript, :link, [host.node]) == nil
    assert {:ok, _} = infer(laptop, server, "echo")
    assert {:ok, _} = infer(laptop, server, "crc", %{"data" => bytes(2_000_000)})
  end

  test "the connection is lost, and found again" do
    {host, laptop, server} = pair()
    held = Task.async(fn -> infer(laptop, server, "hold", %{}, timeout: 60_000) end)
    FakePort.until(fn -> seen(host)["held"] == 1 end)
    before = HostNode.call(laptop, LinkScript, :link, [host.node])
    true = HostNode.call(laptop, :erlang, :disconnect_node, [host.node])
    assert {:error, %{reason: :unavailable}} = Task.await(held, 60_000)
    FakePort.until(fn -> seen(host)["held"] == 0 and taken(host) == {0, 0} end)

    assert {:ok, _} = infer(laptop, server, "echo")
    assert HostNode.call(laptop, LinkScript, :link, [host.node]) != before
  end

  test "that a link has to be opened first is a part of the time a request has" do
    {host, laptop, server} = pair()
    os_pid = HostNode.os_pid(host)
    TestNode.signal(os_pid, "STOP")

    try do
      for function <- [:infer, :async] do
        {us, result} = HostNode.call(laptop, LinkScript, :timed, [function, server, 300])
        assert {:error, %{reason: :deadline_exceeded}} = result
        # To open one takes five seconds where nobody answers.
        assert us < 4_000_000
      end
    after
      TestNode.signal(os_pid, "CONT")
    end
  end

  test "uploads to a host that stops reading end at their deadline" do
    {host, laptop, server} = pair()
    os_pid = HostNode.os_pid(host)

    try do
      args = [server, 16, 64_000_000, os_pid, 3_000]
      results = HostNode.call(laptop, LinkScript, :upload_stopped, args)
      assert results == List.duplicate(:deadline_exceeded, 16)
    after
      TestNode.signal(os_pid, "CONT")
    end

    FakePort.until(fn -> HostNode.call(host, LinkScript, :helpers, []) == 0 end)
  end

  test "what is too large, or not taken now, is refused before it is sent" do
    {host, laptop, server} = pair(bytes: 3_000_000, requests: 1)
    assert {:ok, _} = infer(laptop, server, "echo")

    pieces = fn size, options ->
      HostNode.call(laptop, LinkScript, :pieces, [server, size, options])
    end

    for options <- [[], [overload: :wait]] do
      assert {{:error, %{reason: :too_large, message: text}}, 0, 0} = pieces.(4_000_000, options)
      assert text =~ "the scheduler takes 3000000 altogether"
    end

    nobody = {MyApp.Nobody, host.node}
    args = [nobody, 2_000_000, []]

    assert {{:error, %{reason: :unavailable}}, 0, 0} =
             HostNode.call(laptop, LinkScript, :pieces, args)

    holder = HostNode.call(laptop, LinkScript, :hold, [server, %{}, [timeout: :infinity]])
    FakePort.until(fn -> seen(host)["held"] == 1 end)
    before = HostNode.call(host, FakePort, :refused, [GpuSched])
    assert {{:error, %{reason: :overloaded} = error}, 0, 0} = pieces.(2_000_000, [])
    assert error.message =~ "1 requests are in flight" and error.retry_after_ms > 0
    assert {:error, %{reason: :overloaded}} = infer(laptop, server, "echo")
    # Large and small ones are counted alike.
    assert HostNode.call(host, FakePort, :refused, [GpuSched]) == before + 2
    HostNode.call(laptop, Process, :exit, [holder, :kill])
    FakePort.until(fn -> taken(host) == {0, 0} end)
    assert {{:ok, _}, 9, 0} = pieces.(2_000_000, [])

    # One was taken, so the next does not wait for that to be said: what is sent for nothing is dropped,
    # and after that nothing is sent before.
    assert {{:ok, _}, sent, early} = pieces.(2_000_000, [])
    # A connection that is busy takes fewer early.
    assert sent + early == 9 and early > 0
    too_large = pieces.(40_000_000, [])
    assert {{:error, %{reason: :too_large}}, 0, early} = too_large
    assert early > 0
    assert {{:error, %{reason: :too_large}}, 0, 0} = pieces.(4_000_000, [])
    assert {{:ok, _}, 9, 0} = pieces.(2_000_000, [])
    FakePort.until(fn -> taken(host) == {0, 0} end)
  end

  test "without leases a frame's limit is said before anything is sent" do
    {_host, laptop, server} = pair("max-frame": 2_000_000, "lease-min": 0)
    args = [server, 3_000_000, []]

    assert {{:error, %{reason: :too_large, message: text}}, 0, 0} =
             HostNode.call(laptop, LinkScript, :pieces, args)

    assert text =~ "a frame takes 2000000"
  end

  test "uploads that would wait are let in as there is room for them" do
    {host, laptop, server} = pair(bytes: 5_000_000)
    first = HostNode.call(laptop, LinkScript, :standing, [server, 3_000_000])

    # It counts though its credit is not taken before it is there.
    assert taken(host) == {0, 0}
    args = [server, 3_000_000, []]

    assert {{:error, %{reason: :overloaded, message: text}}, 0, _early} =
             HostNode.call(laptop, LinkScript, :pieces, args)

    assert text =~ "on their way here"

    # One that gives up in the queue, and two that do not.
    flood = &HostNode.call(laptop, LinkScript, :flood, [server, &1, 3_000_000, &2])
    ended = &HostNode.call(laptop, LinkScript, :ended, [&1])
    brief = flood.(1, overload: :wait, timeout: 200)
    FakePort.until(fn -> match?([{:deadline_exceeded, _}], ended.(brief)) end)
    patient = flood.(2, overload: :wait, timeout: :infinity)
    # What is small, or fits beside it, has nothing to do with that.
    assert {:ok, _} = infer(laptop, server, "echo")
    assert {{:ok, _}, _, _} = HostNode.call(laptop, LinkScript, :pieces, [server, 1_500_000, []])
    assert {ended.(first), ended.(patient)} == {[], []}
    HostNode.call(laptop, Kernel, :send, [first, :resume])
    FakePort.until(fn -> {ended.(first), ended.(patient)} == {[:ok], [:ok, :ok]} end)
    FakePort.until(fn -> taken(host) == {0, 0} end)
  end

  test "the large inputs of a stream go in pieces as well" do
    {host, laptop, server} = pair(bytes: 5_000_000)
    crc = :erlang.crc32(:binary.copy(<<7>>, 3_000_000))

    for function <- [:stream, :stream_to] do
      stream = &HostNode.call(laptop, LinkScript, function, [server, &1, &2])
      parts = [parameters: [parts: 3], output: :list]
      assert {answers, 13} = stream.(3_000_000, parts)
      assert [[1], [2], [3]] = for(%{"outputs" => %{"part" => part}} <- answers, do: part)
      assert Enum.all?(answers, &(&1["outputs"]["crc"] == [crc]))
      # Small ones take the way they took.
      assert {[_, _, _], 0} = stream.(1_000, parts)
    end

    # What could never be taken is refused by its size, and what is left of a stream when its consumer
    # dies is cancelled.
    args = [server, 6_000_000, [parameters: [parts: 1]]]

    assert {{:error, %{reason: :too_large}}, _} =
             HostNode.call(laptop, LinkScript, :stream_to, args)

    FakePort.until(fn -> taken(host) == {0, 0} end)
    pid = HostNode.call(laptop, LinkScript, :reader, [server, 3_000_000])
    FakePort.until(fn -> taken(host) != {0, 0} end)
    FakePort.until(fn -> HostNode.call(host, LinkScript, :helpers, []) == 0 end)
    HostNode.call(laptop, Process, :exit, [pid, :kill])
    FakePort.until(fn -> taken(host) == {0, 0} end)
  end

  test "the large parts of a stream come in pieces as well, in order" do
    {host, laptop, server} = pair()
    sizes = [10, 1_048_577, 5_000_000]
    answers = HostNode.call(laptop, LinkScript, :parts_of, [server, sizes])

    for {size, {3, left, parts}} <- Enum.zip(sizes, answers) do
      assert left == [message_queue_len: 0, monitors: []]

      assert for(%{"outputs" => %{"part" => %{"data" => <<n::little-32>>}}} <- parts, do: n) == [
               1,
               2,
               3
             ]

      assert Enum.all?(parts, &(byte_size(&1["outputs"]["fill"]["data"]) == size))
    end

    # One that stands still in the middle of a part holds up nobody, and ends with its consumer.
    for ending <- [:resume, :kill] do
      reader = HostNode.call(laptop, LinkScript, :half_a_part, [server, 16_000_000])
      FakePort.until(fn -> HostNode.call(host, LinkScript, :lanes, []) == 1 end)
      assert {:ok, _} = infer(laptop, server, "echo")
      assert HostNode.call(host, LinkScript, :lanes, []) == 1
      HostNode.call(laptop, Kernel, :send, [reader, ending])
      FakePort.until(fn -> HostNode.call(host, LinkScript, :lanes, []) == 0 end)
      FakePort.until(fn -> taken(host) == {0, 0} end)
      ended = if ending == :resume, do: [:ok], else: []
      FakePort.until(fn -> HostNode.call(laptop, LinkScript, :ended, [reader]) == ended end)
    end
  end

  test "what was sent before it was known that it has to wait is sent again" do
    {host, laptop, server} = pair(bytes: 5_000_000)
    standing = HostNode.call(laptop, LinkScript, :standing, [server, 3_000_000])
    assert {{:ok, _}, _, _} = HostNode.call(laptop, LinkScript, :pieces, [server, 1_500_000, []])

    assert {{:ok, result}, 13, early} =
             HostNode.call(laptop, LinkScript, :behind, [standing, server, 3_000_000])

    assert early > 0
    crc = :erlang.crc32(:binary.copy(<<7>>, 3_000_000))
    assert result["outputs"]["crc"]["data"] == <<crc::32-little>>
    FakePort.until(fn -> taken(host) == {0, 0} end)
  end

  test "an upload that waits to be let in is told when the scheduler ends" do
    {host, laptop, server} = pair(bytes: 5_000_000)
    HostNode.call(laptop, LinkScript, :standing, [server, 3_000_000])
    args = [server, 3_000_000, [overload: :wait, timeout: :infinity]]
    waiting = for _ <- 1..2, do: HostNode.call(laptop, LinkScript, :asked, args)
    # What was asked later is answered, so they have come.
    assert {:ok, _} = infer(laptop, server, "echo")
    pid = HostNode.call(host, Process, :whereis, [GpuSched])
    HostNode.call(host, Process, :exit, [pid, :kill])

    for upload <- waiting do
      ended = fn -> HostNode.call(laptop, LinkScript, :ended, [upload]) end
      FakePort.until(fn -> ended.() != [] end)
      assert [{:unavailable, text}] = ended.()
      assert text =~ "ended while the request was in flight"
    end
  end

  # More than all buffers on the way take.
  @flood 64
  @flood_bytes 900_000

  test "what waits for a host that stops reading is bounded, and is told" do
    {host, laptop, server} = pair()
    assert {:ok, _} = infer(laptop, server, "echo")
    os_pid = HostNode.os_pid(host)
    flood = &HostNode.call(laptop, LinkScript, :flood, [server, @flood, @flood_bytes, &1])
    ended = &HostNode.call(laptop, LinkScript, :ended, [&1])
    waiting = fn -> HostNode.call(laptop, LinkScript, :waiting, [host.node]) end

    try do
      # While nobody reads, and long before any deadline.
      TestNode.signal(os_pid, "STOP")
      pid = flood.(timeout: :infinity)
      FakePort.until(fn -> ended.(pid) != [] end)
      assert [{:overloaded, text} | _] = ended.(pid)
      assert text =~ "of 8388608 that may"
      assert text =~ "#{host.node} does not read"
      assert waiting.() in 1..8_388_608
      TestNode.signal(os_pid, "CONT")
      FakePort.until(fn -> length(ended.(pid)) == @flood end)
      assert :ok in ended.(pid)
      assert Enum.all?(ended.(pid), &(&1 == :ok or match?({:overloaded, _}, &1)))
      FakePort.until(fn -> waiting.() == 0 end)

      # Those who wait are served when there is room; nobody is sent away.
      TestNode.signal(os_pid, "STOP")
      pid = flood.(timeout: :infinity, overload: :wait)
      FakePort.until(fn -> waiting.() > 8_388_608 - 2 * @flood_bytes end)
      assert ended.(pid) == []
      TestNode.signal(os_pid, "CONT")
      FakePort.until(fn -> length(ended.(pid)) == @flood end)
      assert ended.(pid) == List.duplicate(:ok, @flood)

      # What its caller gives up makes room, though the host stands still.
      TestNode.signal(os_pid, "STOP")
      pid = flood.(timeout: 1_000)
      FakePort.until(fn -> length(ended.(pid)) == @flood end)
      reasons = for {reason, _} <- ended.(pid), do: reason
      assert Enum.sort(Enum.uniq(reasons)) == [:deadline_exceeded, :overloaded]
      FakePort.until(fn -> waiting.() == 0 end)
    after
      TestNode.signal(os_pid, "CONT")
    end

    assert {:ok, _} = infer(laptop, server, "echo")
    FakePort.until(fn -> taken(host) == {0, 0} end)
  end

  test "what a killed caller counted and did not send is not counted for ever" do
    {host, laptop, server} = pair()
    assert {:ok, _} = infer(laptop, server, "echo")
    counted = fn bytes -> HostNode.call(laptop, LinkScript, :count, [host.node, bytes]) end
    waiting = fn -> HostNode.call(laptop, LinkScript, :waiting, [host.node]) end
    FakePort.until(fn -> waiting.() == 0 end)
    counted.(10_000_000)
    assert {:error, %{reason: :overloaded}} = infer(laptop, server, "echo")
    FakePort.until(fn -> waiting.() == 0 end)
    assert {:ok, _} = infer(laptop, server, "echo")
  end

  test "links end with their keeper, and new ones are opened" do
    {host, laptop, server} = pair()
    assert {:ok, _} = infer(laptop, server, "echo")
    before = HostNode.call(laptop, LinkScript, :link, [host.node])
    keeper = HostNode.call(laptop, Process, :whereis, [GpuSched.Link.Near])
    HostNode.call(laptop, Process, :exit, [keeper, :kill])
    FakePort.until(fn -> not HostNode.call(laptop, Process, :alive?, [before]) end)
    FakePort.until(fn -> match?({:ok, _}, infer(laptop, server, "echo")) end)

    FakePort.until(fn ->
      HostNode.call(laptop, LinkScript, :link, [host.node]) not in [nil, before]
    end)
  end

  describe "pieces" do
    # Sends to this process, and acknowledges nothing by itself.
    defp begin(data, pace \\ Pace.new()),
      do: [data] |> Bulk.new(pace) |> Bulk.start(self(), :tag)

    defp pieces(acc \\ []) do
      receive do
        {:tag, {:gs_piece, piece}} -> pieces([piece | acc])
      after
        0 -> Enum.reverse(acc)
      end
    end

    test "no more are sent than the credit allows" do
      data = :crypto.strong_rand_bytes(10_000_000)
      bulk = begin(data)
      first = pieces()
      sent = first |> Enum.map(&byte_size/1) |> Enum.sum()
      assert sent >= 2 * 1_048_576 and sent < 3 * 1_048_576
      assert Enum.all?(first, &(byte_size(&1) <= 256 * 1024))

      # What has arrived is made up for, and no more: the way is short.
      bulk = Bulk.acked(bulk, byte_size(hd(first)))
      assert pieces() |> Enum.map(&byte_size/1) |> Enum.sum() <= 2 * 256 * 1024
      refute Bulk.done?(bulk)
    end

    test "what was found out about the way is for the next one" do
      pace = Pace.new()
      data = :crypto.strong_rand_bytes(10_000_000)
      sent = fn -> pieces() |> Enum.map(&byte_size/1) |> Enum.sum() end

      Pace.learn(pace, 4 * 1_048_576, byte_size(data))
      begin(data, pace)
      assert sent.() == 4 * 1_048_576
      # Something small does not show that less is enough.
      Pace.learn(pace, 3 * 1_048_576, 1_500_000)
      begin(data, pace)
      assert sent.() == 4 * 1_048_576
      Pace.learn(pace, 2 * 1_048_576, byte_size(data))
      begin(data, pace)
      assert sent.() == 2 * 1_048_576
    end

    test "how long the way is" do
      pace = Pace.new()
      assert Pace.quiet?(pace, 5)
      assert Pace.measured(pace, 20_000, true, 1) == 20_000
      refute Pace.quiet?(pace, 1_000_000)
      # Behind others.
      assert Pace.measured(pace, 30_000, false, 2) == 20_000
      assert Pace.measured(pace, 10_000, false, 3) == 10_000
      # With nothing before it, but held up, or the way is longer now.
      assert Pace.quiet?(pace, 3_000_000)
      assert Pace.measured(pace, 90_000, true, 3_000_000) == 20_000
      assert Pace.enough(300.0, 20_000) == 12_000_000
    end

    test "before it is known whether they are taken, no more are sent than may be for nothing" do
      pace = Pace.new()
      data = :crypto.strong_rand_bytes(3_000_000)
      early = &Bulk.start_early(Bulk.new([data], &1), self(), :tag)

      early.(pace)
      assert {pieces(), early_pieces()} == {[], []}
      Pace.taken(pace, true)
      bulk = early.(pace)
      first = early_pieces()
      assert pieces() == [] and length(first) == 8

      # With them, or from the beginning.
      Bulk.ready(bulk, :now)
      assert pieces() == []
      Bulk.ready(bulk, :later)
      assert pieces() == first
      # One had to wait.
      early.(pace)
      assert {pieces(), early_pieces()} == {[], []}
    end

    defp early_pieces(acc \\ []) do
      receive do
        {:tag, {:gs_early, piece}} -> early_pieces([piece | acc])
      after
        0 -> Enum.reverse(acc)
      end
    end

    test "they come as they were sent, and none has bytes of two" do
      binaries = for n <- [300_000, 1, 3_000_000], do: :crypto.strong_rand_bytes(n)
      bulk = Bulk.new(binaries, Pace.new())
      size = Bulk.size(bulk)
      pieces = run(Bulk.start(bulk, self(), :tag), Bulk.receiver(self(), :tag, size))
      assert Enum.map(pieces, &byte_size/1) |> Enum.take(3) == [262_144, 37_856, 1]
      assert IO.iodata_to_binary(pieces) == IO.iodata_to_binary(binaries)
    end

    defp run(bulk, receiver) do
      receive do
        {:tag, {:gs_ack, bytes}} ->
          run(Bulk.acked(bulk, bytes), receiver)

        {:tag, {:gs_piece, piece}} ->
          case Bulk.take(receiver, piece) do
            {:more, receiver} -> run(bulk, receiver)
            {:done, pieces} -> pieces
          end
      end
    end
  end

  describe "the arguments of a large request" do
    defp tensor(data), do: %{"datatype" => "UINT8", "shape" => [byte_size(data)], "data" => data}

    defp arguments do
      [large, larger] = for n <- [100_000, 700_000], do: :crypto.strong_rand_bytes(n)

      inputs = %{
        "a" => tensor(large),
        b: %{datatype: "UINT8", shape: {7}, data: larger},
        c: ["x", 2]
      }

      {[GpuSched, "m", Map.put(inputs, "small", tensor(<<1, 2, 3>>)), [timeout: 5]],
       [large, larger]}
    end

    defp joined(%{data: %Pieces{} = pieces} = value), do: %{value | data: Pieces.join(pieces)}

    defp joined(%{"data" => %Pieces{} = pieces} = value),
      do: %{value | "data" => Pieces.join(pieces)}

    defp joined(value), do: value

    test "are the same on the other side, their large binaries in the pieces that came" do
      {[name, model, inputs, opts] = arguments, large} = arguments()
      {binaries, head} = Body.pack(arguments)
      assert Enum.sort(tl(binaries)) == Enum.sort(large)

      pieces = Enum.flat_map(binaries, &cut/1)
      assert [^name, ^model, back, ^opts] = Body.unpack(pieces, head)
      assert Map.new(back, fn {name, value} -> {name, joined(value)} end) == inputs
      assert %Pieces{size: 100_000, list: [_, _]} = back["a"]["data"]
    end

    defp cut(<<piece::binary-65_536, rest::binary>>), do: [piece | cut(rest)]
    defp cut(rest), do: [rest]

    test "are refused where the sizes do not agree" do
      {arguments, _large} = arguments()
      {[term | large] = binaries, head} = Body.pack(arguments)
      assert_raise ArgumentError, fn -> Body.unpack(binaries ++ ["more"], head) end
      assert_raise ArgumentError, fn -> Body.unpack([term | tl(large)], head) end
      assert_raise ArgumentError, fn -> Body.unpack(binaries, head + 1) end
    end
  end
end
