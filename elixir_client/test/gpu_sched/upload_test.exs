# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.UploadTest do
  # Large tensors go round the pipe.
  use GpuSched.FakePortCase, async: true

  @moduletag :tmp_dir

  defp large(size \\ 300_000) do
    data = :rand.bytes(size)
    {%{datatype: "UINT8", shape: [size], data: data}, :erlang.crc32(data)}
  end

  defp crc(result), do: hd(result["outputs"]["crc"])

  test "the caller writes them into leased memory" do
    {server, _pid} = start("lease-min": 100_000)
    {tensor, crc} = large()
    assert {:ok, result} = GpuSched.infer(server, "crc", %{data: tensor}, output: :list)
    assert crc(result) == crc
    seen = seen(server)
    assert "lease" in seen["methods"]
    assert seen["lease_writes"] == 0
    assert taken(server) == {0, 0}
  end

  test "several tensors share a lease, small ones go along in the message" do
    {server, _pid} = start("lease-min": 1_000)
    inputs = for n <- [10, 5_000, 2_001, 999], into: %{}, do: {"t#{n}", elem(large(n), 0)}
    assert {:ok, %{"outputs" => outputs}} = GpuSched.infer(server, "echo", inputs)
    for {name, t} <- inputs, do: assert(outputs[name]["data"] == t.data)
    assert Enum.count(seen(server)["methods"], &(&1 == "lease")) == 1
  end

  test "where the memory cannot be opened, pieces go through the pipe" do
    {server, _pid} = start("lease-min": 100_000, "lease-path": "/nonexistent/memory")
    {tensor, crc} = large(1_000_000)
    assert {:ok, result} = GpuSched.infer(server, "crc", %{data: tensor}, output: :list)
    assert crc(result) == crc
    assert seen(server)["lease_writes"] == 4
  end

  test "where there is no lease, the message carries them" do
    {server, _pid} = start("lease-min": 100_000, "no-leases": 1, "max-frame": 400_000)
    {tensor, crc} = large()
    assert {:ok, result} = GpuSched.infer(server, "crc", %{data: tensor}, output: :list)
    assert crc(result) == crc
    # One that does not fit there is told when to come back.
    {tensor, _crc} = large(500_000)

    assert {:error, %Error{reason: :overloaded, retry_after_ms: 9}} =
             GpuSched.infer(server, "crc", %{data: tensor})

    until(fn -> taken(server) == {0, 0} end)
  end

  test "the memory of a port that is gone is written and released no more" do
    {server, pid} = start()
    # The number of a lease that another request may have by now.
    piece = GpuSched.Protocol.lease_write(7, 0, "data")
    send(pid, {:gs_lease_write, make_ref(), piece})
    send(pid, {:gs_give_up, make_ref(), 7})
    assert %{"lease_writes" => 0, "released" => []} = seen(server)
  end

  test "after the death of the port they are written again", %{tmp_dir: dir} do
    {server, _pid} = start("lease-min": 100_000, folder: dir)
    {tensor, _crc} = large()
    assert {:ok, result} = GpuSched.infer(server, "die_once", %{data: tensor})
    assert result["outputs"]["data"]["data"] == tensor.data
    assert "lease" in seen(server)["methods"]
    until(fn -> taken(server) == {0, 0} end)
  end

  test "async, streams and infer_many take the same way" do
    {server, _pid} = start("lease-min": 100_000)
    {tensor, crc} = large()
    request = GpuSched.async(server, "crc", %{data: tensor}, output: :list)
    assert {:ok, result} = GpuSched.await(request)
    assert crc(result) == crc

    stream = GpuSched.stream(server, "crc", %{data: tensor}, output: :list)
    assert [result] = Enum.to_list(stream)
    assert crc(result) == crc

    many = GpuSched.infer_many(server, "crc", List.duplicate(%{data: tensor}, 5), output: :list)
    assert Enum.map(many, fn {:ok, r} -> crc(r) end) == List.duplicate(crc, 5)
    assert taken(server) == {0, 0}
  end

  test "one who waited for the credit writes then" do
    {server, pid} = start("lease-min": 100_000, requests: 1)
    {tensor, crc} = large()
    task = Task.async(fn -> GpuSched.infer(server, "hold", %{}, timeout: :infinity) end)
    until(fn -> seen(server)["held"] == 1 end)

    waiter =
      Task.async(fn ->
        GpuSched.infer(server, "crc", %{data: tensor}, output: :list, overload: :wait)
      end)

    until(fn -> map_size(:sys.get_state(pid).waiting) == 1 end)
    Task.shutdown(task, :brutal_kill)
    assert {:ok, result} = Task.await(waiter, 60_000)
    assert crc(result) == crc
    until(fn -> taken(server) == {0, 0} end)
  end

  test "memory is back at its baseline after a soak" do
    {server, pid} = start([], watchdog: 2_000)
    soak = fn -> for _ <- 1..3, do: {:ok, _} = soak_once(server) end
    soak.()
    idle = fn -> :erlang.garbage_collect() && settled(pid) end
    until(idle)
    before = :erlang.memory(:binary)
    for _ <- 1..4, do: soak.()

    # Half a payload, where any that is kept would show as a whole one.
    until(fn -> idle.() && :erlang.memory(:binary) < before + 8 * 1024 * 1024 end)
  end

  # 16 MiB in by a lease, 16 MiB out through the pipe.
  defp soak_once(server) do
    {tensor, _} =
      {%{datatype: "UINT8", shape: [16_777_216], data: :binary.copy(<<1>>, 16_777_216)}, 0}

    GpuSched.infer(server, "echo", %{data: tensor}, timeout: 60_000)
  end

  defp settled(pid), do: :sys.get_state(pid).large == 0
end
