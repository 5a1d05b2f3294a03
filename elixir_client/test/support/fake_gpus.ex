# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.FakeGpus do
  # Schedulers on a machine with two GPUs that are none: the CUDA plugin over the fakes of CUDA and
  # NVML that the tests in C build beside sched-port (tests/cuda). hwloc is told of the machine by a
  # file.
  @moduledoc false

  alias GpuSched.RealPort

  @machine """
  <?xml version="1.0" encoding="UTF-8"?>
  <!DOCTYPE topology SYSTEM "hwloc2.dtd">
  <topology version="2.0">
   <object type="Machine" os_index="0" cpuset="0x1" complete_cpuset="0x1" allowed_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" allowed_nodeset="0x1" gp_index="1">
    <object type="Package" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" gp_index="2">
     <object type="NUMANode" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" gp_index="3" local_memory="1073741824"/>
     <object type="Core" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" gp_index="4">
      <object type="PU" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" gp_index="5"/>
     </object>
    </object>
    <object type="Bridge" gp_index="6" bridge_type="0-1" depth="0" bridge_pci="0000:[00-03]">
     <object type="PCIDev" gp_index="7" pci_busid="0000:01:00.0" pci_type="0302 [10de:2335] [10de:18be] a1" pci_link_speed="0.000000"/>
     <object type="PCIDev" gp_index="8" pci_busid="0000:02:00.0" pci_type="0302 [10de:2335] [10de:18be] a1" pci_link_speed="0.000000"/>
    </object>
   </object>
  </topology>
  """

  defp plugins do
    if port = RealPort.path(),
      do:
        port
        |> Path.expand()
        |> Path.dirname()
        |> Path.join("../tests/cuda/emulated")
        |> Path.expand()
  end

  # A reason to skip, or nil.
  def missing do
    RealPort.missing() ||
      unless(File.exists?(Path.join(plugins(), "libsched-device-cuda.so")),
        do: "the CUDA plugin over the fake of CUDA is not beside sched-port: build the tests in C"
      )
  end

  # Starts one whose instruments show `lines` (tests/cuda/fake/fake_nvml.cc), and waits until they
  # have been read.
  def start(folder, lines, port_options \\ []) do
    machine = Path.join(folder, "machine.xml")
    instruments = Path.join(folder, "nvml")
    File.write!(machine, @machine)
    File.write!(instruments, lines)

    set(%{
      "HWLOC_XMLFILE" => machine,
      "HWLOC_THISSYSTEM" => "1",
      "FAKE_NVML" => instruments
    })

    {server, pid} = RealPort.start(port_options: [plugins: plugins()] ++ port_options)
    {:ok, _} = GpuSched.await_ready(server)

    GpuSched.FakePort.until(fn ->
      {:ok, devices} = GpuSched.devices(server)
      gpus = for %{"kind" => "gpu"} = device <- devices, do: device
      gpus != [] and Enum.all?(gpus, & &1["readings"]["uuid"])
    end)

    {server, pid}
  end

  # Of this process, from which sched-port has its own; as they were when the test is over.
  defp set(variables) do
    before = Map.new(variables, fn {name, _value} -> {name, System.get_env(name)} end)
    System.put_env(variables)
    ExUnit.Callbacks.on_exit(fn -> System.put_env(before) end)
  end
end
