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
      {server, _pid} = start()
      assert_receive {:telemetry, [:gpu_sched, :port, :up], %{count: 1}, %{version: "0.0.0"}}
      {:ok, _} = GpuSched.infer(server, "echo", %{})

      assert_receive {:telemetry, [:gpu_sched, :infer, :start], %{system_time: _},
                      %{model: "echo"}}

      assert_receive {:telemetry, [:gpu_sched, :infer, :stop],
                      %{duration: _, queue_us: 1, compute_us: 2, batch: 1},
                      %{model: "echo", result: :ok, device: "fake:0"}}

      {:error, _} = GpuSched.infer(server, "nothing", %{})
      assert_receive {:telemetry, [:gpu_sched, :infer, :stop], %{}, %{reason: :unknown_model}}
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
  end
end
