# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Laptop.Find do
  # What `gpu_sched connect` does before the shell is opened: finds the node, so that it is known
  # whether the shell has to speak IPv4 or IPv6, and says what is wrong where it cannot be found. The
  # answer is written into the script's own folder; so is the cookie, for nobody else to read.
  @moduledoc false

  alias GpuSched.Doctor.{Address, Finding, Network}

  @spec main :: no_return
  def main do
    folder = System.fetch_env!("GPU_SCHED_CONNECT_FOLDER")
    target = System.fetch_env!("GPU_SCHED_CONNECT_TARGET")

    case Network.reach(target, [cookie: cookie(folder)] ++ options()) do
      {:ok, found, findings} ->
        Finding.print(Enum.reject(findings, &(&1.level == :ok)), :stderr)
        File.write!(Path.join(folder, "found"), line(found))
        System.halt(0)

      {:error, findings} ->
        IO.puts(:stderr, "gpu_sched: #{target} cannot be connected to:")
        Finding.print(findings, :stderr)
        System.halt(1)
    end
  end

  # What Shell.read/1 reads.
  defp line(found) do
    proto = if Address.family(found.address) == :inet6, do: "inet6_tcp", else: "inet_tcp"
    "#{proto} #{found.node} #{Address.text(found.address)} #{Address.text(found.own)}\n"
  end

  # nil where the laptop's own is to be used: OTP reads ~/.erlang.cookie.
  defp cookie(folder) do
    home = System.user_home() || "/"

    Enum.find_value([Path.join(folder, "cookie"), Path.join(home, ".erlang.cookie")], fn path ->
      case File.read(path) do
        {:ok, text} -> text |> String.trim() |> String.to_atom()
        {:error, _posix} -> nil
      end
    end)
  end

  defp options do
    Enum.flat_map(
      [
        {"GPU_SCHED_CONNECT_DNS", &dns/1},
        {"GPU_SCHED_CONNECT_PORT", &[port: String.to_integer(&1)]},
        {"GPU_SCHED_CONNECT_PREFER", &[prefer: String.split(&1)]},
        {"GPU_SCHED_CONNECT_FAMILY", &family/1},
        {"GPU_SCHED_CONNECT_TIMEOUT", &[timeout: String.to_integer(&1)]}
      ],
      fn {variable, option} ->
        case System.get_env(variable, "") do
          "" -> []
          value -> option.(value)
        end
      end
    )
  end

  defp dns(text) do
    case Address.name_server(text) do
      {:ok, server} ->
        [dns: server]

      :error ->
        IO.puts(:stderr, "gpu_sched: --dns takes an address, with or without a port; got #{text}")
        System.halt(64)
    end
  end

  defp family("inet6_tcp"), do: [family: :inet6]
  defp family(_other), do: [family: :inet]
end
