# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.OsProcess do
  # The program at the other end of the port, as the operating system sees it. A closed port tells
  # nothing about its program any more, so its end is looked for in /proc; a pid alone could be
  # somebody else's by then, hence the start time.
  @moduledoc false

  alias GpuSched.Server.State

  @type t :: {pid :: pos_integer, start_time :: String.t() | nil}

  @spec of_port(port) :: t | nil
  def of_port(port) do
    case Port.info(port, :os_pid) do
      {:os_pid, pid} -> {pid, start_time(pid)}
      _ -> nil
    end
  end

  @spec alive?(t | nil) :: boolean
  def alive?(nil), do: false
  def alive?({_pid, nil}), do: false
  def alive?({pid, start}), do: start_time(pid) == start

  # Whether it has ended by then, a time of State.now_ms/0.
  @spec await_exit(t | nil, integer) :: boolean
  def await_exit(process, deadline) do
    cond do
      not alive?(process) ->
        true

      State.now_ms() >= deadline ->
        false

      true ->
        receive do
        after
          5 -> await_exit(process, deadline)
        end
    end
  end

  # Through the shell's builtin: a machine may lack the program of that name.
  @spec kill(t | nil) :: :ok
  def kill(process) do
    if alive?(process) do
      {pid, _start} = process
      System.cmd("/bin/sh", ["-c", "kill -KILL #{pid}"], stderr_to_stdout: true)
    end

    :ok
  end

  # The 22nd field of stat; the second is a name in parentheses that may hold anything. A zombie
  # has ended.
  defp start_time(pid) do
    with {:ok, stat} <- File.read("/proc/#{pid}/stat"),
         [state | fields] when state != "Z" <-
           stat |> String.split(")") |> List.last() |> String.split() do
      Enum.at(fields, 18)
    else
      _ -> nil
    end
  end
end
