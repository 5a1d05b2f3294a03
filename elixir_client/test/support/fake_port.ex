# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.FakePort do
  # Schedulers whose sched-port is test/support/fake_port.py, which misbehaves on request.
  @moduledoc false

  @path Path.expand("fake_port.py", __DIR__)

  # A reason to skip, or nil.
  def missing do
    unless File.exists?("/usr/bin/python3"), do: "no /usr/bin/python3 for the fake port"
  end

  def path, do: @path

  # Options for GpuSched.start_link/1; `port_options` are those of the fake port.
  def options(port_options \\ [], options \\ []) do
    Keyword.merge(
      [port_path: @path, port_options: port_options, restart_backoff: {10, 100}],
      options
    )
  end

  # Starts one under the test's supervisor, under a name of its own.
  def start(port_options \\ [], options \\ []) do
    name = :"fake_#{System.unique_integer([:positive])}"
    child = {GpuSched, options(port_options, [name: name] ++ options)}
    {name, ExUnit.Callbacks.start_supervised!(child, id: name)}
  end

  # What the fake port has seen.
  def seen(server) do
    {:ok, seen} = GpuSched.stats(server, timeout: 60_000)
    seen
  end

  # Asks until the answer pleases: for what is to be seen over there soon.
  def until(fun, tries \\ 6_000) do
    cond do
      value = fun.() -> value
      tries == 0 -> ExUnit.Assertions.flunk("it did not come to pass")
      true -> pause() && until(fun, tries - 1)
    end
  end

  defp pause do
    receive do
    after
      5 -> true
    end
  end

  # Requests that lie in the mailbox of a scheduler's process, among other messages.
  def queued(pid) do
    {:messages, messages} = Process.info(pid, :messages)
    Enum.count(messages, &match?({:gs_send, _, _, _, _, _, _}, &1))
  end

  # Credit that is taken: {requests, bytes}.
  def taken(server), do: server |> counters() |> GpuSched.Admission.taken()

  # How many were refused for want of it.
  def refused(server), do: server |> counters() |> GpuSched.Admission.refused()

  # :up, :down, :closing, :starting.
  def state(server), do: server |> counters() |> GpuSched.Admission.state()

  defp counters(server) do
    {:ok, ctx} = server |> GenServer.whereis() |> GpuSched.Directory.fetch()
    ctx.counters
  end
end
