# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.ReadingsTest do
  # What the instruments of GPUs show, all the way from NVML (a fake of it) to who looks.
  use ExUnit.Case, async: false

  alias GpuSched.{Browser, FakeGpus, Metrics, RealPort, Snapshot, Top, Web}

  @moduletag capture_log: true, timeout: 120_000
  if reason = FakeGpus.missing(), do: @moduletag(skip: reason)

  # The second has nothing but its name.
  @shown """
  0000:01:00.0 uuid GPU-1
  0000:01:00.0 utilization 37 12
  0000:01:00.0 memory 85899345920 1610612736
  0000:01:00.0 temperature 61
  0000:01:00.0 power 350400
  0000:01:00.0 power_limit 700000
  0000:01:00.0 energy 5000
  0000:01:00.0 clocks 68
  0000:01:00.0 link 0 1
  0000:01:00.0 link 1 0
  0000:01:00.0 ecc 5 2
  0000:02:00.0 uuid GPU-2
  """

  setup do
    folder =
      Path.join(System.tmp_dir!(), "gpu_sched_readings_#{System.unique_integer([:positive])}")

    File.mkdir_p!(folder)
    on_exit(fn -> File.rm_rf!(folder) end)
    %{tmp_dir: folder}
  end

  defp readings(server) do
    {:ok, devices} = GpuSched.devices(server)
    for %{"readings" => readings} <- devices, do: readings
  end

  test "are told of each GPU, and of no CPU", %{tmp_dir: folder} do
    {server, _pid} = FakeGpus.start(folder, @shown)
    [first, second] = readings(server)
    {age, first} = Map.pop(first, "age_ms")
    assert age < 60_000

    assert first == %{
             "reason" => "",
             "uuid" => "GPU-1",
             "utilization_percent" => 37,
             "memory_busy_percent" => 12,
             "memory_total_bytes" => 85_899_345_920,
             "memory_used_bytes" => 1_610_612_736,
             "temperature_c" => 61,
             "power_mw" => 350_400,
             "power_limit_mw" => 700_000,
             "energy_mj" => 5_000,
             "throttle" => ["power", "thermal"],
             "links" => 2,
             "links_up" => 1,
             "ecc_corrected" => 5,
             "ecc_uncorrected" => 2,
             "xid_count" => 0,
             "last_xid" => 0
           }

    assert Map.keys(second) == ~w(age_ms last_xid reason uuid xid_count)
  end

  test "stand in the metrics, under the names that dashboards know", %{tmp_dir: folder} do
    {server, _pid} = FakeGpus.start(folder, @shown, devices_per_gpu: 2)
    {:ok, text} = Metrics.text(server)
    lines = text |> IO.iodata_to_binary() |> String.split("\n")
    gpu = ~s(gpu_uuid="GPU-1",device="gpu:0")

    for line <- [
          "nv_gpu_utilization{#{gpu}} 0.37",
          "nv_gpu_memory_total_bytes{#{gpu}} 85899345920",
          "nv_gpu_memory_used_bytes{#{gpu}} 1610612736",
          "nv_gpu_power_usage{#{gpu}} 350.4",
          "nv_gpu_power_limit{#{gpu}} 700.0",
          "nv_energy_consumption{#{gpu}} 5.0",
          "gpu_sched_gpu_temperature_celsius{#{gpu}} 61",
          "gpu_sched_gpu_memory_busy_ratio{#{gpu}} 0.12",
          ~s(gpu_sched_gpu_throttled{#{gpu},reason="power"} 1),
          ~s(gpu_sched_gpu_throttled{#{gpu},reason="brake"} 0),
          ~s(gpu_sched_gpu_nvlinks{#{gpu},state="up"} 1),
          ~s(gpu_sched_gpu_nvlinks{#{gpu},state="down"} 1),
          ~s(gpu_sched_gpu_ecc_errors_total{#{gpu},kind="uncorrected"} 2),
          "gpu_sched_gpu_xid_errors_total{#{gpu}} 0",
          # What the second one has no instrument for is not there.
          ~s(gpu_sched_gpu_xid_errors_total{gpu_uuid="GPU-2",device="gpu:2"} 0)
        ] do
      assert line in lines
    end

    # One that is two devices is told once.
    assert Enum.count(lines, &String.starts_with?(&1, "nv_gpu_utilization{")) == 1
    assert Enum.count(lines, &String.starts_with?(&1, "gpu_sched_gpu_xid_errors_total{")) == 2
    assert Enum.count(lines, &(&1 =~ "GPU-2")) == 2
  end

  test "are drawn in a terminal", %{tmp_dir: folder} do
    {server, _pid} = FakeGpus.start(folder, @shown)
    {:ok, now} = Snapshot.take(server)
    text = now |> Top.frame(now, {140, 80}) |> IO.iodata_to_binary()
    assert text =~ ~r/^GPU +COMPUTES +MEMORY GiB +TEMP +POWER W +NVLINKS +ERRORS/m

    assert text =~
             ~r"^gpu:0 +█{7}░{13} +37 % +1.5/80.0 +61 °C +350/700 +1/2 +2 ECC +slowed down: power, thermal$"mu

    assert text =~ ~r/^gpu:1$/m

    # A number of errors, and why there is no more.
    [cpu, gpu | _] = now["devices"]
    gone = %{"reason" => "no driver", "xid_count" => 2, "last_xid" => 79}
    gpu = Map.put(gpu, "state", "down")
    now = Map.put(now, "devices", [cpu, Map.put(gpu, "readings", gone)])

    assert now |> Top.frame(now, {140, 80}) |> IO.iodata_to_binary() =~
             ~r/^gpu:0 +2 \(Xid 79\) +no driver$/m
  end

  test "are not spoken of where there are none" do
    {server, _pid} = RealPort.start(port_options: [plugins: "/nowhere"])
    {:ok, _} = GpuSched.await_ready(server)

    # Where there are, their plugin is not.
    {:ok, now} = Snapshot.take(server)
    refute now |> Top.frame(now, {140, 80}) |> IO.iodata_to_binary() =~ "NVLINKS"
    {:ok, text} = Metrics.text(server)
    refute IO.iodata_to_binary(text) =~ "nv_gpu_utilization{"
  end

  missing =
    cond do
      not Code.ensure_loaded?(:inets) -> "OTP's :inets is not installed (Debian: erlang-inets)"
      reason = Browser.missing() -> reason
      true -> nil
    end

  if missing, do: @tag(skip: missing)

  test "are on the page", %{tmp_dir: folder} do
    {server, _pid} = FakeGpus.start(folder, @shown)
    web = start_supervised!({Web, port: 0, server: server, fresh_ms: 0})
    {0, page, console} = Browser.dom("http://127.0.0.1:#{Web.port(web)}/", folder, 3_000)
    assert console == []
    [_, table] = Regex.run(~r/<table id="gpus">(.*?)<\/table>/s, page)
    cells = for [_, cell] <- Regex.scan(~r/<td[^>]*>(.*?)<\/td>/s, table), do: cell
    text = cells |> Enum.map(&Regex.replace(~r/<[^>]*>/, &1, "")) |> Enum.chunk_every(9)

    assert [
             [
               "gpu:0",
               "37 %",
               "1.5 GiB of 80.0 GiB",
               "61 °C",
               "350 W of 700 W",
               "1 of 2",
               "0",
               "2",
               "slowed down: power, thermal"
             ],
             ["gpu:1", "", "", "", "", "", "0", "", ""]
           ] = text

    refute page =~ ~r/<div id="gpus-too" hidden/
  end
end
