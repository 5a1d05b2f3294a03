# SPDX-License-Identifier: Apache-2.0
#
# ./dev bench laptop: what a scheduler is from another node, through this client (via=client) and
# called by :erpc as by a node that has none of our code (via=erpc). Host and laptop are two nodes on
# this machine, joined by the loopback interface, and once more through a wire that adds delay_ms to
# the round trip, half of it each way.
#
#   --json        one JSON object on standard output, and nothing else
#   --seconds=S   for each point of a throughput (2)
#   --only=A,B    only these metrics
#
#   added_latency_us       of a request of 64 bytes, the median, less that of a bare :erpc call; beside
#                          the round trip of the same request on the host itself
#   requests_per_s         of 64 bytes, from 256 processes that each wait for their answer; beside as
#                          many calls of an :erpc echo
#   bandwidth_bytes_per_s  with bodies of 16 MiB, from two processes, counted one way; back=false:
#                          beside :erpc to a function that answers their size; back=true: the answer has
#                          the body again, beside an :erpc echo. Ours are summed up by the device, and
#                          copied by it, as well.
#   cpu_us_per_request     what all processes together, of host and laptop, take of their cores for it: 64
#                          bytes from 256 processes, and 16 MiB from two; beside the same as above. What
#                          others have of the machine is not in it, so it says more where that is shared.
#   small_p99_ms           of requests of 64 bytes while two processes of the laptop stream 16 MiB to
#                          another model; beside the same with :erpc and its echo
#
# A point is measured alternately on the two, three times; value, baseline and ratio are those of the
# round whose ratio is the median.

Code.require_file("support/report.exs", __DIR__)

# A wire that is slow: whatever comes in goes out after so many ms.
defmodule Bench.Wire do
  @moduledoc false

  # Much at a time, so that what is measured is not how fast this wire is.
  @options [:binary, active: false, nodelay: true, buffer: 1_048_576]

  def start(to_port, delay_ms) do
    {:ok, listener} = :gen_tcp.listen(0, [{:ip, {127, 0, 0, 1}} | @options])

    {:ok, port} = :inet.port(listener)
    spawn_link(fn -> accept(listener, to_port, delay_ms) end)
    port
  end

  defp accept(listener, to_port, delay_ms) do
    {:ok, from} = :gen_tcp.accept(listener)
    {:ok, to} = :gen_tcp.connect({127, 0, 0, 1}, to_port, @options)
    for {a, b} <- [{from, to}, {to, from}], do: join(a, b, delay_ms)
    accept(listener, to_port, delay_ms)
  end

  defp join(from, to, delay_ms) do
    writer = spawn(fn -> write(to) end)
    spawn(fn -> read(from, writer, delay_ms * 1_000) end)
  end

  defp read(socket, writer, delay_us) do
    case :gen_tcp.recv(socket, 0) do
      {:ok, data} ->
        send(writer, {data, micros() + delay_us})
        read(socket, writer, delay_us)

      {:error, _} ->
        send(writer, :done)
    end
  end

  defp write(socket) do
    receive do
      {data, due} ->
        wait(due)
        if :gen_tcp.send(socket, data) == :ok, do: write(socket)

      :done ->
        :gen_tcp.close(socket)
    end
  end

  defp wait(due) do
    left = div(due - micros() + 999, 1_000)
    if left > 0, do: Process.sleep(left)
  end

  defp micros, do: :erlang.monotonic_time(:microsecond)
end

# What runs on the laptop, and on the host what an :erpc echo takes: both get this module's code.
{:module, _, code, _} =
  defmodule Bench.OnNode do
    @moduledoc false

    def echo(x), do: x
    def size(inputs), do: byte_size(inputs["data"]["data"])

    def payload(bytes) do
      data = :binary.copy(<<0x5A>>, bytes)
      %{"data" => %{"datatype" => "UINT8", "shape" => [bytes], "data" => data}}
    end

    @options [timeout: 30_000, overload: :wait]

    # What a call is, for each way there is. {way, :back}: the answer has the body again.
    def call({:client, :back}, host, model, inputs) do
      bytes = byte_size(inputs["data"]["data"])
      options = [parameters: [echo: true]] ++ @options
      {:ok, result} = GpuSched.infer({GpuSched, host}, model, inputs, options)
      ^bytes = byte_size(result["outputs"]["data"]["data"])
    end

    def call({:erpc, :back}, host, model, inputs) do
      bytes = byte_size(inputs["data"]["data"])
      options = [parameters: [echo: true]] ++ @options
      {:ok, result} = :erpc.call(host, GpuSched, :infer, [GpuSched, model, inputs, options])
      ^bytes = byte_size(result["outputs"]["data"]["data"])
    end

    def call(:client, host, model, inputs),
      do: {:ok, _} = GpuSched.infer({GpuSched, host}, model, inputs, @options)

    def call(:local, _host, model, inputs),
      do: {:ok, _} = GpuSched.infer(GpuSched, model, inputs, @options)

    def call(:erpc, host, model, inputs) do
      {:ok, _} = :erpc.call(host, GpuSched, :infer, [GpuSched, model, inputs, @options])
    end

    def call(:echo, host, _model, inputs), do: :erpc.call(host, __MODULE__, :echo, [inputs])
    def call(:size, host, _model, inputs), do: :erpc.call(host, __MODULE__, :size, [inputs])
    def call(:bare, host, _model, _inputs), do: :erpc.call(host, :erlang, :node, [])

    def median_us(via, host, bytes, seconds) do
      inputs = payload(bytes)
      for _ <- 1..50, do: call(via, host, "noop", inputs)
      times = times(seconds, fn -> call(via, host, "noop", inputs) end)
      Enum.at(Enum.sort(times), div(length(times), 2)) / 1_000
    end

    defp times(seconds, fun) do
      finish = now() + round(seconds * 1.0e9)

      Stream.repeatedly(fn ->
        begin = now()
        fun.()
        now() - begin
      end)
      |> Enum.take_while(fn _ -> now() < finish end)
    end

    # Calls per second.
    def rate(via, host, callers, bytes, seconds) do
      {calls, ns, _cpu} = called(via, host, callers, bytes, seconds, [])
      calls * 1.0e9 / ns
    end

    # CPU time of those processes for a call, in µs.
    def cost(via, host, callers, bytes, seconds, os_pids) do
      {calls, _ns, cpu} = called(via, host, callers, bytes, seconds, os_pids)
      cpu / calls
    end

    # How many, in what time, and what the processes took meanwhile.
    defp called(via, host, callers, bytes, seconds, os_pids) do
      inputs = payload(bytes)
      counter = :counters.new(1, [:write_concurrency])

      pids =
        for _ <- 1..callers do
          spawn_link(fn ->
            Stream.repeatedly(fn ->
              call(via, host, "noop", inputs)
              :counters.add(counter, 1, 1)
            end)
            |> Stream.run()
          end)
        end

      Process.sleep(500)
      {begin, before, used} = {now(), :counters.get(counter, 1), cpu_us(os_pids)}
      await(counter, before + 4, begin + round(seconds * 1.0e9))
      {finish, later, more} = {now(), :counters.get(counter, 1), cpu_us(os_pids)}
      stop(pids, host)
      {later - before, finish - begin, more - used}
    end

    # Of /proc/PID/stat, behind the name, which may have anything in it: utime and stime, in hundredths of
    # a second.
    defp cpu_us(os_pids) do
      Enum.sum(
        for pid <- os_pids do
          fields = "/proc/#{pid}/stat" |> File.read!() |> String.split(")") |> List.last()
          [user, system] = fields |> String.split() |> Enum.slice(11, 2)
          10_000 * (String.to_integer(user) + String.to_integer(system))
        end
      )
    end

    # Until the time is over, and there is something to divide by it.
    defp await(counter, count, finish) do
      if now() < finish or :counters.get(counter, 1) < count do
        Process.sleep(5)
        await(counter, count, finish)
      end
    end

    def p99_ms(small, large, host, stream_bytes, seconds) do
      inputs = payload(stream_bytes)

      streams =
        for _ <- 1..2 do
          spawn_link(fn ->
            Stream.repeatedly(fn -> call(large, host, "bulk", inputs) end) |> Stream.run()
          end)
        end

      small_inputs = payload(64)
      for _ <- 1..50, do: call(small, host, "noop", small_inputs)
      times = times(seconds, fn -> call(small, host, "noop", small_inputs) end)
      stop(streams, host)
      Enum.at(Enum.sort(times), div(length(times) * 99, 100)) / 1.0e6
    end

    # What they left on the way is not to be in that of the next measurement.
    defp stop(pids, host) do
      for pid <- pids do
        ref = Process.monitor(pid)
        Process.unlink(pid)
        Process.exit(pid, :kill)

        receive do
          {:DOWN, ^ref, _, _, _} -> :ok
        end
      end

      call(:bare, host, nil, nil)
    end

    defp now, do: :os.perf_counter(:nanosecond)
  end

:persistent_term.put(:bench_code, code)

defmodule Bench.Laptop do
  @moduledoc false

  import Bench.Report, only: [compare: 5]

  @mib 1_048_576
  @delay_ms 20

  def main(args), do: Bench.Report.main("laptop", args, &metrics/1)

  defp metrics(seconds) do
    host = host()
    near = laptop(host, host.port)
    far = laptop(host, Bench.Wire.start(host.port, div(@delay_ms, 2)))
    laptops = [{0, near}, {@delay_ms, far}]

    [
      {"added_latency_us", fn -> added_latency(host, laptops, seconds) end},
      {"requests_per_s", fn -> rate(host, laptops, seconds) end},
      {"bandwidth_bytes_per_s", fn -> bandwidth(host, laptops, seconds) end},
      {"cpu_us_per_request", fn -> cost(host, near, seconds) end},
      {"small_p99_ms", fn -> small(host, near, seconds) end}
    ]
  end

  defp added_latency(host, laptops, seconds) do
    for {delay, laptop} <- laptops, via <- [:client, :erpc] do
      compare(
        "added_latency_us",
        %{via: via, delay_ms: delay},
        "us",
        fn ->
          on(laptop, :median_us, [via, host.node, 64, seconds / 2]) -
            on(laptop, :median_us, [:bare, host.node, 64, seconds / 2])
        end,
        fn -> on(host, :median_us, [:local, host.node, 64, seconds / 2]) end
      )
    end
  end

  defp rate(host, laptops, seconds) do
    for {delay, laptop} <- laptops, via <- [:client, :erpc] do
      compare(
        "requests_per_s",
        %{via: via, callers: 256, bytes: 64, delay_ms: delay},
        "1/s",
        fn -> on(laptop, :rate, [via, host.node, 256, 64, seconds]) end,
        fn -> on(laptop, :rate, [:echo, host.node, 256, 64, seconds]) end
      )
    end
  end

  defp bandwidth(host, laptops, seconds) do
    for {delay, laptop} <- laptops, back <- [false, true], via <- [:client, :erpc] do
      bytes = 16 * @mib
      {ours, bare} = if back, do: {{via, :back}, :echo}, else: {via, :size}

      compare(
        "bandwidth_bytes_per_s",
        %{via: via, bytes: bytes, back: back, delay_ms: delay},
        "B/s",
        fn -> bytes * on(laptop, :rate, [ours, host.node, 2, bytes, seconds]) end,
        fn -> bytes * on(laptop, :rate, [bare, host.node, 2, bytes, seconds]) end
      )
    end
  end

  defp cost(host, laptop, seconds) do
    os_pids = [os_pid(laptop) | family(os_pid(host))]

    for {callers, bytes, bare} <- [{256, 64, :echo}, {2, 16 * @mib, :size}],
        via <- [:client, :erpc] do
      cost = &on(laptop, :cost, [&1, host.node, callers, bytes, seconds, os_pids])

      compare(
        "cpu_us_per_request",
        %{via: via, callers: callers, bytes: bytes},
        "us",
        fn -> cost.(via) end,
        fn -> cost.(bare) end
      )
    end
  end

  defp os_pid(node), do: call(node, System, :pid, [])

  # A process and all that it started.
  defp family(os_pid) do
    children =
      for path <- Path.wildcard("/proc/#{os_pid}/task/*/children"),
          {:ok, listed} <- [File.read(path)],
          child <- String.split(listed),
          do: family(child)

    [os_pid | Enum.concat(children)]
  end

  defp small(host, laptop, seconds) do
    for via <- [:client, :erpc] do
      compare(
        "small_p99_ms",
        %{via: via, bytes: 64, streams: 2, stream_bytes: 16 * @mib},
        "ms",
        fn -> on(laptop, :p99_ms, [via, via, host.node, 16 * @mib, 2 * seconds]) end,
        fn -> on(laptop, :p99_ms, [:echo, :size, host.node, 16 * @mib, 2 * seconds]) end
      )
    end
  end

  # ---- nodes, without epmd, which would stay behind

  defp host do
    port = free_port()
    flags = ["-kernel", "inet_dist_use_interface", "{127,0,0,1}"]
    host = start("host", port, flags)

    options = [
      name: GpuSched,
      port_path: System.fetch_env!("GPU_SCHED_PORT"),
      port_options: [cpu_devices: 2]
    ]

    {:ok, _} = call(host, Supervisor, :start_child, [GpuSched.Supervisor, {GpuSched, options}])

    # Each model on a device of its own: what is asked is who waits on the way, not who computes first.
    for {model, device} <- [{"noop", "cpu:0"}, {"bulk", "cpu:1"}] do
      {:ok, _} =
        call(host, GpuSched, :load, [GpuSched, model, [engine: "synthetic", devices: [device]]])
    end

    Map.put(host, :port, port)
  end

  defp laptop(host, port) do
    laptop = start("laptop", port, ["-dist_listen", "false", "-hidden"])
    true = call(laptop, Node, :connect, [host.node])
    laptop
  end

  # It ends when its standard input does, and so with this program.
  defp start(name, port, flags) do
    path = Enum.flat_map(:code.get_path(), &[~c"-pa", &1])
    epmd = ["-start_epmd", "false", "-erl_epmd_port", "#{port}"]
    cookie = ["-setcookie", "bench-#{System.pid()}"]

    {:ok, peer, node} =
      :peer.start_link(%{
        name: :"#{name}-#{System.unique_integer([:positive])}-#{System.pid()}",
        host: ~c"127.0.0.1",
        longnames: true,
        connection: :standard_io,
        args: path ++ Enum.map(epmd ++ cookie ++ flags, &to_charlist/1)
      })

    it = %{peer: peer, node: node}
    {:ok, _} = call(it, Application, :ensure_all_started, [:gpu_sched])
    code = :persistent_term.get(:bench_code)
    {:module, _} = call(it, :code, :load_binary, [Bench.OnNode, ~c"bench", code])
    it
  end

  defp on(node, function, args), do: call(node, Bench.OnNode, function, args)

  defp call(%{peer: peer}, module, function, args),
    do: :peer.call(peer, module, function, args, :infinity)

  defp free_port do
    {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(socket)
    :ok = :gen_tcp.close(socket)
    port
  end
end

Bench.Laptop.main(System.argv())
