# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.TestNode do
  # Nodes for the tests: this one is made part of a distribution, with an epmd if there is none, and
  # others are started that have nothing of ours on their path, like a laptop.
  @moduledoc false

  # Makes this node distributed; where that cannot be done, missing/0 says why.
  def start do
    unless Node.alive?() do
      System.cmd("epmd", ["-daemon"], stderr_to_stdout: true)
      await_epmd(500)
      name = :"gpu_sched_#{System.pid()}@127.0.0.1"

      case :net_kernel.start([name, :longnames]) do
        {:ok, _pid} -> :ok
        {:error, reason} -> :persistent_term.put({__MODULE__, :missing}, reason)
      end
    end

    :ok
  rescue
    e in ErlangError -> :persistent_term.put({__MODULE__, :missing}, e.original)
  end

  # `epmd -daemon` comes back before the daemon listens. One that never does shows in what
  # :net_kernel answers.
  defp await_epmd(0), do: :ok

  defp await_epmd(tries) do
    case :net_adm.names(~c"127.0.0.1") do
      {:ok, _names} ->
        :ok

      {:error, _reason} ->
        Process.sleep(10)
        await_epmd(tries - 1)
    end
  end

  # A reason to skip, or nil.
  def missing do
    unless Node.alive?() do
      reason = :persistent_term.get({__MODULE__, :missing}, :unknown)
      "distribution cannot be started here: #{inspect(reason, limit: 5)}"
    end
  end

  # A node that has none of our code. Ends with the test.
  def laptop(prefix \\ "laptop"), do: peer(prefix, [])

  # One that has this library, as a client.
  def client, do: peer("client", Enum.flat_map(:code.get_path(), &[~c"-pa", &1]))

  defp peer(prefix, args) do
    name = :"#{prefix}_#{System.unique_integer([:positive])}_#{System.pid()}"

    {:ok, pid, node} =
      :peer.start_link(%{
        name: name,
        host: ~c"127.0.0.1",
        longnames: true,
        connection: :standard_io,
        args: [~c"-hidden", ~c"-setcookie", Atom.to_charlist(Node.get_cookie()) | args]
      })

    true = Node.connect(node)
    {pid, node}
  end

  # The operating system's number of a node's process.
  def os_pid(node), do: node |> :erpc.call(:os, :getpid, []) |> List.to_integer()

  # Whether that process has ended; a zombie has, though nobody has asked for its status yet.
  def gone?(os_pid) do
    case File.read("/proc/#{os_pid}/stat") do
      {:ok, stat} -> stat |> String.split(")") |> List.last() |> String.starts_with?(" Z")
      {:error, _posix} -> true
    end
  end

  def signal(os_pid, signal),
    do: {_, 0} = System.cmd("/bin/sh", ["-c", "kill -#{signal} #{os_pid}"])
end
