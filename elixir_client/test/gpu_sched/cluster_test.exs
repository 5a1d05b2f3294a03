# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.ClusterTest do
  # Three hosts and a laptop, each a node of its own.
  use ExUnit.Case, async: false

  alias GpuSched.{ClusterScript, FakePort, HostNode, LinkScript, RealPort, TestNode}

  if reason = TestNode.missing() || FakePort.missing(), do: @moduletag(skip: reason)
  @moduletag capture_log: true, timeout: 180_000

  defp unique_cookie, do: "cluster_#{System.unique_integer([:positive])}_#{System.pid()}"

  # Hosts that are connected to each other, each with a scheduler that has its models.
  defp hosts(models, options \\ []) do
    {cookie, options} = Keyword.pop(options, :cookie, unique_cookie())

    hosts =
      for {names, n} <- Enum.with_index(models) do
        env = [args: ["-gpu_sched", "region", ~s("region-#{n}")]]
        host = HostNode.start([name: "host#{n}", cookie: cookie] ++ env)
        models = for name <- names, do: [name: name, path: "/x"]
        HostNode.scheduler(host, [models: models] ++ options)
        host
      end

    [first | others] = hosts
    for other <- others, do: true = HostNode.call(first, Node, :connect, [other.node])

    for host <- hosts do
      FakePort.until(fn -> length(HostNode.call(host, Node, :list, [])) == length(hosts) - 1 end)
    end

    hosts
  end

  # Hidden, connected to the first; with `only`, unable to connect to any other.
  defp laptop([host | _], options \\ []) do
    options = Keyword.put_new(options, :args, [])
    start = [name: "laptop", cookie: host.cookie, hidden: true, args: options[:args]]
    laptop = HostNode.start(start)
    if options[:only], do: HostNode.call(laptop, :net_kernel, :allow, [[host.node]])
    true = HostNode.call(laptop, Node, :connect, [host.node])
    laptop
  end

  defp list(host) do
    {:ok, list} = HostNode.call(host, GpuSched, :cluster, [])
    list
  end

  # Asks until it has `count`, all of which are up, and their ways are known.
  defp known(host, count) do
    FakePort.until(fn ->
      list = list(host)

      if length(list) == count and
           Enum.all?(list, &(&1["state"] == "up" and is_integer(&1["round_trip_us"]))),
         do: list
    end)
  end

  defp infer(host, model, options \\ []),
    do: HostNode.call(host, GpuSched, :infer, [:any, model, %{}, options])

  defp seen(host, name \\ GpuSched) do
    {:ok, seen} = HostNode.call(host, GpuSched, :stats, [name, [timeout: 60_000]])
    seen
  end

  defp kill(host), do: host |> HostNode.os_pid() |> TestNode.signal("KILL")

  test "hosts announce themselves to each other" do
    hosts = hosts([["echo"], ["echo", "hold"], []])

    for host <- hosts do
      list = known(host, 3)

      assert Enum.map(list, & &1["node"]) |> Enum.sort() ==
               hosts |> Enum.map(& &1.node) |> Enum.sort()

      for entry <- list do
        n = Enum.find_index(hosts, &(&1.node == entry["node"]))
        assert entry["region"] == "region-#{n}"
        assert entry["server"] == {GpuSched, entry["node"]}
        assert entry["via"] == nil
        assert {entry["in_flight"], entry["capacity"]} == {0, seen_capacity()}
        assert Map.keys(entry["models"]) == Enum.at([["echo"], ["echo", "hold"], []], n)
        if entry["node"] == host.node, do: assert(entry["round_trip_us"] == 0)
      end
    end

    # One that is killed is gone at once, and one whose application is stopped as well.
    [one, two, three] = hosts
    kill(two)
    FakePort.until(fn -> length(list(one)) == 2 end)
    :ok = HostNode.call(three, Application, :stop, [:gpu_sched])
    FakePort.until(fn -> length(list(one)) == 1 end)
  end

  # What the fake port's hello says.
  defp seen_capacity, do: 1_000

  test "where nobody listens, nothing is asked and nothing is said" do
    host = HostNode.start()
    HostNode.scheduler(host)
    assert HostNode.call(host, GpuSched.Cluster.Member, :quiet?, [])
    methods = seen(host)["methods"]
    assert Enum.uniq(methods) == ["stats"]
    assert [%{"state" => "up"}] = list(host)
    assert "models" in seen(host)["methods"]
  end

  test "a hidden laptop hears of all through the one it is connected to" do
    hosts = hosts([["echo"], ["echo"], ["echo"]])
    laptop = laptop(hosts)
    assert HostNode.call(laptop, Node, :list, []) == []
    known(laptop, 3)

    # It connects to the others as well, and then speaks to them directly.
    FakePort.until(fn -> Enum.all?(list(laptop), &(&1["via"] == nil)) end)
    assert length(HostNode.call(laptop, Node, :list, [:hidden])) == 3
    assert {:ok, _} = infer(laptop, "echo")
  end

  test "a laptop calls a host it cannot reach through the one it can" do
    [one | _] = hosts = hosts([[], ["echo"], ["big", "hold"]])
    laptop = laptop(hosts, only: true)
    list = known(laptop, 3)
    via = Map.new(list, &{&1["node"], &1["via"]})
    assert Map.values(via) |> Enum.frequencies() == %{nil => 1, one.node => 2}
    assert via[one.node] == nil

    assert {:ok, _} = infer(laptop, "big", parameters: [bytes: 10])
    assert seen(List.last(hosts))["infers"] == 1

    # The way is the sum of both.
    for %{"via" => via} = entry when via != nil <- known(laptop, 3),
        do: assert(entry["round_trip_us"] > 0)

    # It is the owner, all the way: when it dies, the request is cancelled over there.
    pid = HostNode.call(laptop, ClusterScript, :begin, ["hold", [timeout: :infinity]])
    FakePort.until(fn -> seen(List.last(hosts))["held"] == 1 end)
    HostNode.call(laptop, Process, :exit, [pid, :kill])
    FakePort.until(fn -> seen(List.last(hosts))["held"] == 0 end)
  end

  test "what a laptop is told of a host it cannot reach is kept up" do
    [_, two] = hosts = hosts([[], ["echo"]])
    laptop = laptop(hosts, only: true)
    known(laptop, 2)
    told = fn -> for(%{"via" => via} = e when via != nil <- list(laptop), do: e["server"]) end
    assert told.() == [{GpuSched, two.node}]

    # Long after it was told first: another one, and one less.
    HostNode.call(laptop, ClusterScript, :ticks, [12])
    assert state(laptop, two) == "up"
    HostNode.scheduler(two, name: MyApp.Late, models: [[name: "big", path: "/x"]])
    both = Enum.sort([{GpuSched, two.node}, {MyApp.Late, two.node}])
    FakePort.until(fn -> Enum.sort(told.()) == both end)
    FakePort.until(fn -> match?({:ok, _}, infer(laptop, "big", parameters: [bytes: 10])) end)
    :ok = HostNode.call(two, Supervisor, :terminate_child, [GpuSched.Supervisor, MyApp.Late])
    FakePort.until(fn -> told.() == [{GpuSched, two.node}] end)

    # And that it is gone.
    kill(two)
    FakePort.until(fn -> told.() == [] end)
  end

  test "one behind another of whom nothing is heard any more is dropped, and comes back" do
    [one, two] = hosts = hosts([[], ["echo"]])
    # It looks more often, and so gives up sooner.
    laptop = laptop(hosts, only: true, args: ["-gpu_sched", "cluster", "[{interval,20}]"])
    told = fn -> for(%{"via" => via} = e when via != nil <- list(laptop), do: e["server"]) end
    FakePort.until(fn -> told.() == [{GpuSched, two.node}] end)

    # As when the news that it is gone was lost: nobody says anything of it.
    HostNode.call(one, :sys, :suspend, [GpuSched.Cluster.Member])
    FakePort.until(fn -> told.() == [] end)
    HostNode.call(one, :sys, :resume, [GpuSched.Cluster.Member])
    FakePort.until(fn -> told.() == [{GpuSched, two.node}] end)
  end

  test "a deadline is carried through the host in between" do
    [_, _, three] = hosts = hosts([[], [], ["hold"]])
    laptop = laptop(hosts, only: true)
    known(laptop, 3)
    assert %{"via" => via} = Enum.find(list(laptop), &(&1["node"] == three.node))
    assert via == hd(hosts).node

    # All clocks are this machine's. It is not before the time that was given is over, and not so much
    # later as the answer took: as long as it has been on its way, at the most.
    before = GpuSched.Admission.now()
    task = Task.async(fn -> infer(laptop, "hold", timeout: 60_000) end)
    FakePort.until(fn -> seen(three)["held"] == 1 end)
    now = GpuSched.Admission.now()
    assert [deadline] = seen(three)["deadlines"]
    assert deadline >= before + 60_000_000_000
    assert deadline <= now + 60_000_000_000
    {:ok, _} = HostNode.call(three, GpuSched, :infer, [GpuSched, "release", %{}])
    assert {:ok, _} = Task.await(task, 60_000)

    # And when it is over, it is over there too.
    assert {:error, %{reason: :deadline_exceeded}} = infer(laptop, "hold", timeout: 300)
    FakePort.until(fn -> seen(three)["held"] == 0 end)
  end

  test "a hidden laptop between two clusters does not make them one" do
    cookie = unique_cookie()
    prod = hosts([["echo"], ["echo"]], cookie: cookie)
    staging = hosts([["echo"], ["echo"]], cookie: cookie)
    laptop = laptop(prod)
    true = HostNode.call(laptop, Node, :connect, [hd(staging).node])
    known(laptop, 4)
    FakePort.until(fn -> Enum.all?(list(laptop), &(&1["via"] == nil)) end)

    # Each of them wants to know who is there, while the laptop knows everybody.
    for _ <- 1..5, cluster <- [prod, staging], host <- cluster do
      assert host |> list() |> Enum.map(& &1["node"]) ==
               cluster |> Enum.map(& &1.node) |> Enum.sort()

      others = HostNode.call(host, Node, :list, [:connected])

      assert Enum.sort([host.node | others]) ==
               Enum.sort([laptop.node | Enum.map(cluster, & &1.node)])
    end

    assert length(list(laptop)) == 4
  end

  test "a connected node without the application is waited for once" do
    host = HostNode.start(name: "host")
    HostNode.scheduler(host)
    # It looks more often, and so has it over sooner.
    laptop = laptop([host], args: ["-gpu_sched", "cluster", "[{interval,60}]"])
    known(laptop, 1)
    bare = HostNode.start(name: "bare", cookie: host.cookie, library: false)
    true = HostNode.call(laptop, Node, :connect, [bare.node])
    list(laptop)

    # It is asked again all the time, and nobody waits for that.
    assert HostNode.call(laptop, ClusterScript, :looks_awaiting, [8]) == []
  end

  test "a laptop that wants to know no more is told no more" do
    hosts = hosts([["echo"], ["echo"]])
    laptop = laptop(hosts)
    known(laptop, 2)
    assert followers(hd(hosts)) == 1
    HostNode.call(laptop, ClusterScript, :forget_wanted, [])
    FakePort.until(fn -> followers(hd(hosts)) == 0 end)
    assert length(list(laptop)) == 2
    assert followers(hd(hosts)) == 1
  end

  defp followers(host),
    do: map_size(HostNode.call(host, :sys, :get_state, [GpuSched.Cluster.Member]).followers)

  test "a laptop without our code asks a host" do
    [one, _, three] = hosts = hosts([[], ["echo"], ["big", "hold"]])
    known(one, 3)
    bare = HostNode.start(name: "bare", cookie: one.cookie, hidden: true, library: false)
    true = HostNode.call(bare, :net_kernel, :connect_node, [one.node])
    call = fn args -> HostNode.call(bare, :erpc, :call, [one.node, GpuSched | args]) end

    assert {:ok, list} = call.([:cluster, []])
    assert length(list) == 3
    assert {:ok, %{"device" => "fake:0"}} = call.([:infer, [:any, "echo", %{}]])

    assert {:error, %{reason: :unknown_model, message: text}} =
             call.([:infer, [:any, "none", %{}]])

    assert text =~ ~s(has the model "none" ready)

    # The whole of it dies, and what it asked for through the first is cancelled at the third.
    load(bare, ClusterScript)
    args = [one.node, [:any, "hold", %{}, [timeout: :infinity]]]
    HostNode.call(bare, ClusterScript, :begin_through, args)
    through = [one.node, [{GpuSched, three.node}, "hold", %{}, [timeout: :infinity]]]
    HostNode.call(bare, ClusterScript, :begin_through, through)
    FakePort.until(fn -> seen(three)["held"] == 2 end)
    kill(bare)
    FakePort.until(fn -> seen(three)["held"] == 0 end)
    assert length(hosts) == 3
  end

  defp load(host, module) do
    {module, binary, file} = :code.get_object_code(module)
    {:module, _} = HostNode.call(host, :code, :load_binary, [module, file, binary])
  end

  test "what is wrong with the request is not tried again" do
    [one | _] = hosts = hosts([["error"], ["error"], ["error"]])
    known(one, 3)

    assert {:error, %{reason: :invalid_argument}} =
             infer(one, "error", parameters: [code: "invalid_argument"])

    assert hosts |> Enum.map(&seen(&1)["infers"]) |> Enum.sum() == 1
  end

  test "one that is lost is replaced by another, with the time that is left" do
    hosts = hosts([[], ["hold"], ["hold"]])
    laptop = laptop(hosts)
    known(laptop, 3)

    # An answer that comes when the second is told to give it.
    begun = GpuSched.Admission.now()
    task = Task.async(fn -> infer(laptop, "hold", timeout: 30_000) end)

    holder = fn except ->
      FakePort.until(fn ->
        Enum.find(Enum.drop(hosts, 1) -- except, &(seen(&1)["held"] == 1))
      end)
    end

    first = holder.([])
    # Time passes, which the second is not given again.
    HostNode.call(laptop, ClusterScript, :ticks, [16])
    killed = GpuSched.Admission.now()
    kill(first)
    second = holder.([first])
    [later] = seen(second)["deadlines"]
    # All clocks are those of this machine.
    assert later >= begun + 30_000_000_000 and later < killed + 30_000_000_000
    {:ok, _} = HostNode.call(second, GpuSched, :infer, [GpuSched, "release", %{}])
    assert {:ok, %{"device" => "fake:0"}} = Task.await(task, 60_000)
  end

  test "a host that says nothing is avoided, and what it has in flight goes on while its connection carries something" do
    [_, two, three] = hosts = hosts([[], ["hold"], []])
    laptop = laptop(hosts)
    known(laptop, 3)
    FakePort.until(fn -> Enum.all?(list(laptop), &(&1["via"] == nil)) end)
    task = Task.async(fn -> infer(laptop, "hold", timeout: 60_000) end)
    FakePort.until(fn -> seen(two)["held"] == 1 end)

    # As when something large is in the way of its announcements.
    HostNode.call(two, :sys, :suspend, [GpuSched.Cluster.Member])
    chatter = HostNode.call(two, ClusterScript, :chatter, [laptop.node])
    FakePort.until(fn -> state(laptop, two) == "silent" end)
    # A request is looked after four times a second.
    HostNode.call(laptop, ClusterScript, :ticks, [8])
    assert seen(two)["held"] == 1
    {:ok, _} = HostNode.call(two, GpuSched, :infer, [GpuSched, "release", %{}])
    assert {:ok, _} = Task.await(task, 60_000)

    # With nothing on it, the host has stopped, for all that anybody knows.
    HostNode.call(two, :sys, :resume, [GpuSched.Cluster.Member])
    FakePort.until(fn -> state(laptop, two) == "up" end)
    task = Task.async(fn -> infer(laptop, "hold", timeout: 60_000) end)
    FakePort.until(fn -> seen(two)["held"] == 1 end)
    HostNode.call(two, :sys, :suspend, [GpuSched.Cluster.Member])
    HostNode.call(two, Process, :exit, [chatter, :kill])
    assert {:error, %{reason: reason}} = Task.await(task, 30_000)
    assert reason in [:unavailable, :unknown_model]
    assert length([three | hosts]) == 4
  end

  test "schedulers that do not answer make nobody else silent" do
    [one, two] = hosts([["echo"], ["echo"]])

    for name <- [MyApp.B, MyApp.C],
        do: HostNode.scheduler(two, name: name, models: [[name: "echo", path: "/x"]])

    known(one, 4)
    stopped = for name <- [GpuSched, MyApp.B], do: {name, seen(two, name)["pid"]}

    try do
      for {_name, os_pid} <- stopped, do: TestNode.signal(os_pid, "STOP")
      # Their models are not known any more; it takes the gauge a second to find that out.
      for {name, _} <- stopped, do: FakePort.until(fn -> models(one, {name, two.node}) == %{} end)
      # One after the other they would take two, each time; the machine may stand still for once.
      oldest = fn -> HostNode.call(one, ClusterScript, :oldest, [two.node, 16]) end
      assert FakePort.until(fn -> oldest.() < 1_000 end, 10)
      assert Map.keys(models(one, {MyApp.C, two.node})) == ["echo"]
    after
      for {_name, os_pid} <- stopped, do: TestNode.signal(os_pid, "CONT")
    end
  end

  defp models(host, server),
    do: Enum.find_value(list(host), &(&1["server"] == server && &1["models"]))

  defp state(host, other),
    do: Enum.find_value(list(host), &if(&1["node"] == other.node, do: &1["state"]))

  test "one whose time is over is not tried elsewhere" do
    hosts = hosts([["hold"], ["hold"]])
    known(hd(hosts), 2)
    assert {:error, %{reason: :deadline_exceeded}} = infer(hd(hosts), "hold", timeout: 2_500)
    assert hosts |> Enum.map(&seen(&1)["infers"]) |> Enum.sum() == 1
    FakePort.until(fn -> Enum.all?(hosts, &(seen(&1)["held"] == 0)) end)
  end

  test "one that drains, is down, or is full is avoided" do
    [one, two, three] =
      hosts([["echo", "hold"], ["echo", "hold"], ["echo", "hold"]], port_options: [requests: 1])

    known(one, 3)

    # A scheduler takes one request, and the first two hold one.
    hold = fn host ->
      pid = HostNode.call(host, ClusterScript, :hold, [GpuSched])
      FakePort.until(fn -> in_flight(one, host) == 1 end)
      pid
    end

    [held, _] = Enum.map([one, two], hold)
    for _ <- 1..20, do: assert({:ok, _} = infer(one, "echo"))
    assert seen(three)["infers"] == 20

    # Now all of them are.
    hold.(three)
    assert {:error, %{reason: :overloaded, retry_after_ms: ms}} = infer(one, "echo")
    assert ms > 0

    # Who waits has a turn as soon as one of them has room.
    waiting = Task.async(fn -> infer(one, "echo", overload: :wait, timeout: 60_000) end)
    HostNode.call(one, Process, :exit, [held, :kill])
    assert {:ok, _} = Task.await(waiting, 60_000)

    # One that is shut down says so, and its like takes over.
    :ok = HostNode.call(two, Supervisor, :terminate_child, [GpuSched.Supervisor, GpuSched])
    assert {:ok, _} = infer(one, "echo", overload: :wait, timeout: 60_000)
  end

  defp in_flight(host, other),
    do: Enum.find_value(list(host), &if(&1["node"] == other.node, do: &1["in_flight"]))

  test "with nobody there it says so, and functions for one scheduler say which they take" do
    lonely = HostNode.start()
    assert {:error, %{reason: :unavailable, message: text}} = infer(lonely, "echo")
    assert text =~ "knows no host that runs a scheduler"
    assert list(lonely) == []

    bare = HostNode.start(library: :path)
    assert {:error, %{reason: :unavailable, message: text}} = infer(bare, "echo")
    assert text =~ "is not started"

    assert_raise ArgumentError, ~r/takes? :any/, fn -> GpuSched.stats(:any) end

    assert_raise ArgumentError, ~r/takes? :any/, fn ->
      GpuSched.stream_to(:any, "m", %{}, self())
    end
  end

  test "async and infer_many go to any as well" do
    [one | _] = hosts = hosts([["echo"], ["echo"], ["echo"]])
    known(one, 3)
    inputs = for n <- 1..60, do: %{"x" => [n]}
    assert 60 = HostNode.call(one, ClusterScript, :many, ["echo", inputs])
    assert hosts |> Enum.map(&seen(&1)["infers"]) |> Enum.sum() == 61
  end

  describe "under load" do
    if reason = RealPort.missing(), do: @describetag(skip: reason)

    defp real_hosts do
      models = [[name: "noop", engine: "synthetic", parameters: [a_us: 5_000]]]
      cookie = unique_cookie()

      hosts =
        for n <- 1..3 do
          host = HostNode.start(name: "host#{n}", cookie: cookie)

          HostNode.scheduler(host,
            port_path: RealPort.path(),
            models: models,
            port_options: [cpu_devices: 1]
          )

          {:ok, _} = HostNode.call(host, GpuSched, :await_ready, [GpuSched, "noop"])
          host
        end

      for other <- tl(hosts), do: true = HostNode.call(hd(hosts), Node, :connect, [other.node])
      hosts
    end

    # Each of 16 callers asks so often; runs what is disturbed when a third of it has been done.
    defp disturbed(laptop, disturb, data \\ "abc", each \\ 60) do
      task =
        Task.async(fn ->
          inputs = %{"data" => RealPort.bytes(data)}
          options = [timeout: 60_000]
          args = ["noop", 16, each, options, inputs]
          HostNode.call(laptop, ClusterScript, :load, args, :infinity)
        end)

      third = div(16 * each, 3)
      FakePort.until(fn -> HostNode.call(laptop, ClusterScript, :done, []) > third end)
      disturb.()
      Task.await(task, 120_000)
    end

    defp completed(host) do
      {:ok, stats} = HostNode.call(host, GpuSched, :stats, [GpuSched])
      stats["requests"]["completed"]
    end

    test "a host is killed, and no call fails" do
      [one, two, three] = hosts = real_hosts()
      laptop = laptop(hosts)
      known(laptop, 3)

      assert disturbed(laptop, fn ->
               assert completed(two) > 0
               kill(two)
             end) == %{ok: 960}

      # The others did the rest.
      assert completed(one) > 0 and completed(three) > 0
    end

    test "a host is killed while bodies are on their way to it in pieces, and no call fails" do
      [one, two, three] = hosts = real_hosts()
      laptop = laptop(hosts)
      known(laptop, 3)
      FakePort.until(fn -> Enum.all?(list(laptop), &(&1["via"] == nil)) end)
      large = :binary.copy("large", 300_000)

      kill = fn ->
        # Something is half way when it dies.
        FakePort.until(fn -> HostNode.call(two, LinkScript, :helpers, []) > 0 end)
        kill(two)
      end

      assert disturbed(laptop, kill, large, 20) == %{ok: 320}
      assert completed(one) > 0 and completed(three) > 0
    end

    test "the host that a laptop is connected to through is killed, and no call fails" do
      [one | _] = hosts = real_hosts()
      laptop = laptop(hosts)
      known(laptop, 3)
      FakePort.until(fn -> Enum.all?(list(laptop), &(&1["via"] == nil)) end)
      assert disturbed(laptop, fn -> kill(one) end) == %{ok: 960}
    end

    test "a host stops without a word, and no call fails" do
      [_, two, _] = hosts = real_hosts()
      laptop = laptop(hosts)
      known(laptop, 3)
      FakePort.until(fn -> Enum.all?(list(laptop), &(&1["via"] == nil)) end)
      os_pid = HostNode.os_pid(two)

      try do
        assert disturbed(laptop, fn -> TestNode.signal(os_pid, "STOP") end) == %{ok: 960}

        assert [%{"state" => "silent"}] =
                 for(%{"node" => node} = e <- list(laptop), node == two.node, do: e)
      after
        TestNode.signal(os_pid, "CONT")
      end
    end
  end
end
