# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Web.Host do
  # By which names the server may be called. A browser lets a page ask whatever its own name points to,
  # and that may be made to point here; but the name stays in the request. Addresses cannot be pointed
  # anywhere.
  @moduledoc false

  @spec ours?(charlist | nil, [String.t()]) :: boolean
  # No browser asks without.
  def ours?(nil, _allowed), do: true

  def ours?(host, allowed) do
    name = host |> to_string() |> String.trim() |> String.downcase() |> without_port()
    name == "localhost" or name in allowed or address?(name)
  end

  defp without_port("[" <> rest) do
    case String.split(rest, "]") do
      [address, ""] -> address
      [address, ":" <> _port] -> address
      _ -> rest
    end
  end

  defp without_port(name) do
    case String.split(name, ":") do
      [name, _port] -> name
      _ -> name
    end
  end

  defp address?(name), do: match?({:ok, _}, name |> to_charlist() |> :inet.parse_strict_address())

  @spec refusal :: String.t()
  def refusal do
    "this server answers to localhost, to addresses, and to the names that the option :hosts of " <>
      "GpuSched.Web lists\n"
  end
end
