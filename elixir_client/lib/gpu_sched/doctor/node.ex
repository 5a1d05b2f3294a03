# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Doctor.Node do
  # What this node itself is, and whether it can speak to another at all.
  @moduledoc false

  alias GpuSched.Doctor.{Address, Finding, Network}

  # The family that this node's distribution speaks.
  @spec family :: :inet | :inet6
  def family do
    case proto_dist() do
      [one | _] when one in ["inet6_tcp", "inet6_tls"] -> :inet6
      _ -> :inet
    end
  end

  # `names` of a node are long when the part behind the @ has a dot or a colon.
  @spec long?(String.t()) :: boolean
  def long?(node), do: node |> Address.split() |> elem(1) |> String.contains?([".", ":"])

  @spec alive :: [Finding.t()]
  def alive do
    if Node.alive?() do
      []
    else
      [
        Finding.problem(
          :distribution,
          "this node has no name, so it cannot be connected to others",
          "Start it with iex --name me@127.0.0.1 --hidden, or use gpu_sched connect."
        )
      ]
    end
  end

  # Some OTPs bear it, with others (25) every connection fails, without a word.
  @spec given_twice(boolean) :: [Finding.t()]
  def given_twice(connected?) do
    case proto_dist() do
      [_, _ | _] = several ->
        text = "-proto_dist is given #{length(several)} times: #{Enum.join(several, ", ")}"

        advice =
          "Once is needed; with OTP 25 connections fail otherwise, without a word. Look for it in " <>
            "ERL_AFLAGS, ERL_FLAGS, ERL_ZFLAGS, vm.args and --erl."

        if connected?,
          do: [Finding.note(:proto_dist, text, advice)],
          else: [Finding.problem(:proto_dist, text, advice)]

      _ ->
        []
    end
  end

  # Whether this node can speak to the one that was found.
  @spec matches(node, Network.found()) :: [Finding.t()]
  def matches(asked, found) do
    proto_dist(found) ++ names(asked, found)
  end

  defp proto_dist(%{address: address} = found) do
    case {Address.family(address), family()} do
      {same, same} ->
        []

      {:inet6, :inet} ->
        [
          Finding.problem(
            :proto_dist,
            "#{found.node} answers over IPv6 (#{Address.text(address)}), and this node speaks IPv4",
            "Start this one with ERL_AFLAGS=\"-proto_dist inet6_tcp\"."
          )
        ]

      {:inet, :inet6} ->
        [
          Finding.problem(
            :proto_dist,
            "#{found.node} answers over IPv4 (#{Address.text(address)}), and this node speaks IPv6 " <>
              "(-proto_dist inet6_tcp)",
            "Start this one without it, or the host with it."
          )
        ]
    end
  end

  defp names(asked, found) do
    long = if :net_kernel.longnames() == true, do: "long", else: "short"
    theirs = if long?(found.node), do: "long", else: "short"

    cond do
      long != theirs ->
        [
          Finding.problem(
            :names,
            "this node has a #{long} name, #{node()}, and the host a #{theirs} one, #{found.node}",
            "Nodes with long names (--name) and short ones (--sname) cannot be connected: start " <>
              "both with --name."
          )
        ]

      Atom.to_string(asked) != found.node ->
        [
          Finding.problem(
            :names,
            "the host calls itself #{found.node}, not #{asked}",
            "A node is connected to under the name that it has itself: #{inspect(found.node)}."
          )
        ]

      true ->
        []
    end
  end

  # With -start_epmd false and a port in the flags, as the other side has it too.
  @spec fixed_port :: :inet.port_number() | nil
  def fixed_port do
    with {:ok, values} <- :init.get_argument(:erl_epmd_port),
         [[port] | _] <- Enum.reverse(values),
         {port, ""} <- Integer.parse(to_string(port)) do
      port
    else
      _ -> nil
    end
  end

  defp proto_dist do
    case :init.get_argument(:proto_dist) do
      {:ok, values} -> Enum.map(values, &to_string/1)
      :error -> []
    end
  end
end
