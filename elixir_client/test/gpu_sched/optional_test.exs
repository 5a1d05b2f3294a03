# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.OptionalTest do
  # Nx and telemetry, found at run time: stand-ins are compiled here, after the library, and go
  # again.
  use GpuSched.FakePortCase, async: false

  defp stand_in(file) do
    # The compiler remembers those of the test before.
    Code.compiler_options(ignore_module_conflict: true)
    compiled = Code.compile_file(Path.expand("../stand_in/#{file}", __DIR__))
    Code.compiler_options(ignore_module_conflict: false)
    modules = Keyword.keys(compiled)

    on_exit(fn ->
      for module <- modules do
        :code.purge(module)
        :code.delete(module)
        :code.purge(module)
      end
    end)

    :ok
  end

  describe "Nx" do
    test "tensors go in and come out" do
      stand_in("nx.exs")
      {server, _pid} = start()
      data = for n <- 1..6, into: <<>>, do: <<n::float-little-32>>
      tensor = data |> nx(:from_binary, [{:f, 32}]) |> nx(:reshape, [{2, 3}])

      assert {:ok, %{"outputs" => %{"x" => out}}} =
               GpuSched.infer(server, "echo", %{x: tensor}, output: :nx)

      assert out == tensor

      assert %{"outputs" => %{"x" => [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]}} =
               GpuSched.infer!(server, "echo", %{x: tensor}, output: :list)
    end

    test "every type has its datatype, both ways" do
      stand_in("nx.exs")

      for {name, type} <- GpuSched.Tensor.datatypes(), name != "BOOL" do
        {_kind, bits} = type
        tensor = nx(:binary.copy(<<0>>, 4 * div(bits, 8)), :from_binary, [type])
        plain = GpuSched.NxBridge.to_plain(tensor)
        assert plain["datatype"] == name
        assert plain["shape"] == [4]
        assert GpuSched.NxBridge.from_plain(plain) == tensor
      end
    end

    test "text comes as lists, there is no tensor of it" do
      stand_in("nx.exs")
      {server, _pid} = start()
      result = GpuSched.infer!(server, "echo", %{"text" => ["a"]}, output: :nx)
      assert result["outputs"]["text"] == ["a"]
    end

    test "a type that the wire does not have is refused" do
      stand_in("nx.exs")
      {server, _pid} = start()
      tensor = nx(<<0::64>>, :from_binary, [{:c, 64}])

      assert {:error, %Error{reason: :invalid_argument, message: text}} =
               GpuSched.infer(server, "echo", %{x: tensor})

      assert text =~ "{:c, 64}"
    end

    test "a tensor that cannot be converted here is refused with the cure" do
      stand_in("nx.exs")
      {server, _pid} = start()
      # Sent as it is from a node on whose device it lives.
      tensor = %{
        __struct__: Nx.Tensor,
        data: :elsewhere,
        shape: {1},
        type: {:f, 32},
        names: [nil]
      }

      assert {:error, %Error{reason: :invalid_argument, message: text}} =
               GpuSched.infer(server, "echo", %{x: tensor})

      assert text =~ "inputs.x" and text =~ "it is elsewhere" and text =~ "Nx.to_binary(t)"
      # So it is where the scheduler is on another node.
      assert {:error, %Error{reason: :invalid_argument, message: text}} =
               GpuSched.infer({server, :"nobody@127.0.0.1"}, "echo", %{x: tensor})

      assert text =~ "inputs.x" and text =~ "it is elsewhere"
    end

    test "a result that does not become a tensor is an error, and nothing is left behind" do
      stand_in("nx.exs")
      {server, _pid} = start()
      odd = %{x: %{datatype: "NONSENSE", shape: [1], data: "a"}}

      assert {:error, %Error{reason: :not_supported, message: text}} =
               GpuSched.infer(server, "echo", odd, output: :nx)

      assert text =~ "NONSENSE" and text =~ "output: :list"
      request = GpuSched.async(server, "echo", odd, output: :nx)
      assert {:error, %Error{reason: :not_supported}} = GpuSched.await(request)
      many = GpuSched.infer_many(server, "echo", [odd, odd], output: :nx)
      assert [{:error, %Error{}}, {:error, %Error{}}] = Enum.to_list(many)
      stream = GpuSched.stream(server, "echo", odd, output: :nx)
      assert assert_raise(Error, fn -> Enum.to_list(stream) end).reason == :not_supported
      until(fn -> taken(server) == {0, 0} end)
      assert Process.info(self(), :message_queue_len) == {:message_queue_len, 0}
    end

    test "without Nx a tensor that arrives is refused with the cure" do
      {server, _pid} = start()
      tensor = %{__struct__: Nx.Tensor, data: "", shape: {1}, type: {:f, 32}, names: [nil]}

      assert {:error, %Error{reason: :invalid_argument, message: text}} =
               GpuSched.infer(server, "echo", %{x: tensor})

      assert text =~ "inputs.x"
      assert text =~ "Nx.to_binary(t)"
    end

    # By apply/3, because nothing is known of Nx when this is compiled.
    defp nx(first, function, rest), do: apply(Nx, function, [first | rest])
  end

  describe "telemetry" do
    setup do
      stand_in("telemetry.exs")
      :persistent_term.put(:telemetry, self())
      on_exit(fn -> :persistent_term.erase(:telemetry) end)
    end

    test "a request is a span" do
      {server, pid} = start()
      assert_receive {:telemetry, [:gpu_sched, :port, :up], %{count: 1}, %{version: "0.0.0"}}
      {:ok, _} = GpuSched.infer(server, "echo", %{})

      assert_receive {:telemetry, [:gpu_sched, :infer, :start], %{system_time: _},
                      %{server: ^pid, model: "echo"}}

      assert_receive {:telemetry, [:gpu_sched, :infer, :stop],
                      %{duration: _, queue_us: 1, compute_us: 2, batch: 1},
                      %{model: "echo", result: :ok, device: "fake:0"}}

      {:error, _} = GpuSched.infer(server, "nothing", %{})
      assert_receive {:telemetry, [:gpu_sched, :infer, :stop], %{}, %{reason: :unknown_model}}
    end

    test "a request for any is one span, also where it is served on this node" do
      start([], models: [[name: "echo", path: "/x"]])
      until(fn -> match?({:ok, _}, GpuSched.infer(:any, "echo", %{})) end)
      spans()
      {:ok, _} = GpuSched.infer(:any, "echo", %{})
      assert [{:start, :any}, {:stop, :any}] = spans()
    end

    # Those that have been told, in turn. They are told before the request is answered.
    defp spans do
      receive do
        {:telemetry, [:gpu_sched, :infer, what], _, %{server: server}} ->
          [{what, server} | spans()]
      after
        0 -> []
      end
    end

    @tag :tmp_dir
    test "the pauses between restarts grow to their limit", %{tmp_dir: dir} do
      options = [restart_backoff: {5, 40}]
      {server, _pid} = start([hello: "once", folder: dir], options)
      GpuSched.TestNode.signal(seen(server)["pid"], "KILL")

      pauses =
        for _ <- 1..6 do
          assert_receive {:telemetry, [:gpu_sched, :port, :down], _, %{restart_ms: ms}}
          ms
        end

      assert pauses == [5, 10, 20, 40, 40, 40]
    end

    test "refusals and the end of the port are told" do
      {server, _pid} = start(requests: 1)
      task = Task.async(fn -> GpuSched.infer(server, "hold", %{}, timeout: :infinity) end)
      until(fn -> seen(server)["held"] == 1 end)
      {:error, _} = GpuSched.infer(server, "echo", %{})
      assert_receive {:telemetry, [:gpu_sched, :admission, :refused], %{}, %{reason: :overloaded}}
      GpuSched.TestNode.signal(seen(server)["pid"], "KILL")
      assert_receive {:telemetry, [:gpu_sched, :port, :down], %{in_flight: 1}, %{restart_ms: 10}}
      Task.shutdown(task, :brutal_kill)
    end

    test "overload is told" do
      {server, pid} = start([requests: 1], watchdog: 2_000)
      held = GpuSched.async(server, "hold", %{}, timeout: :infinity)
      until(fn -> elem(taken(server), 0) == 1 end)
      {:error, _} = GpuSched.infer(server, "echo", %{})

      for state <- ["begun", "over"] do
        assert_receive {:telemetry, [:gpu_sched, :overload, :state], %{count: 1, refused: _},
                        %{server: ^pid, state: ^state, at: "credit"}}
      end

      GpuSched.cancel(held)
    end

    test "each point of a load test is told" do
      options = [rate: 100, duration: 50, warmup: 0, payload: %{}, progress: false]
      GpuSched.Load.run(fn _ -> :ok end, options)

      assert_receive {:telemetry, [:gpu_sched, :load, :point],
                      %{throughput: _, p99_ms: _, failed: 0},
                      %{mode: "open", offered: 100, target: "a function"}}
    end

    test "jobs are told of" do
      {server, _pid} = start()
      {:ok, job} = GpuSched.submit(server, "fail")

      assert_receive {:telemetry, [:gpu_sched, :job, :state], %{count: 1},
                      %{job: ^job, name: "fail", state: "running", error: nil}}

      assert_receive {:telemetry, [:gpu_sched, :job, :state], %{count: 1},
                      %{job: ^job, state: "ended", error: %{reason: :engine_failed}}}
    end

    test "the documentation has every event" do
      {:docs_v1, _, _, _, %{"en" => text}, _, _} = Code.fetch_docs(GpuSched.Telemetry)
      event = ~r/\[:gpu_sched, :[a-z_]+, :[a-z_]+\]/
      told = for [event] <- Regex.scan(event, text), uniq: true, do: event

      emitted =
        for path <- Path.wildcard("lib/**/*.ex"),
            source = path |> File.read!() |> String.replace(~r/@moduledoc \"\"\".*?\"\"\"/s, ""),
            [event] <- Regex.scan(event, source),
            uniq: true,
            do: event

      assert Enum.sort(told) == Enum.sort(emitted)
    end
  end
end
