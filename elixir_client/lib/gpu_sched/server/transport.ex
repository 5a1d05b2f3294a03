# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Server.Transport do
  # What is at the other end: a program behind a port, or a process that plays it (GpuSched.Test). Both
  # send {it, {:data, frame}} to the process that opened them, and {:EXIT, it, reason} when they end.
  @moduledoc false

  alias GpuSched.OsProcess

  @type t :: port | pid

  @spec open(String.t() | {module, term}, [String.t()], [{String.t(), String.t()}]) ::
          {t, OsProcess.t() | nil}
  def open({module, config}, args, _env), do: {module.start_link(config, args), nil}

  def open(path, args, env) do
    port =
      Port.open({:spawn_executable, path}, [
        :binary,
        :nouse_stdio,
        :exit_status,
        :hide,
        packet: 4,
        args: args,
        env: for({k, v} <- env, do: {to_charlist(k), to_charlist(v)}),
        # What may be in flight is bounded by the credit; this process must not be suspended.
        busy_limits_port: :disabled,
        busy_limits_msgq: :disabled
      ])

    {port, OsProcess.of_port(port)}
  end

  # Raises an ArgumentError where it has closed.
  @spec send(t, iodata) :: :ok
  def send(pid, frame) when is_pid(pid) do
    Kernel.send(pid, {:frame, IO.iodata_to_binary(frame)})
    :ok
  end

  def send(port, frame) do
    Port.command(port, frame)
    :ok
  end

  @spec close(t) :: :ok
  def close(pid) when is_pid(pid) do
    Process.unlink(pid)
    Process.exit(pid, :kill)
    :ok
  end

  def close(port) do
    Port.close(port)
    :ok
  rescue
    ArgumentError -> :ok
  end
end
