# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Doctor do
  @moduledoc """
  Says what is wrong between this node and a host, and what to do about it.

  `GpuSched.doctor/1` prints it. `examine/2` answers it: a list of maps in the order in which things
  were looked at. Where one stands in the way of what comes after it, the list ends with that.

      %{check: :cookie, level: :problem,
        text: "the cookie is not that of gpu@10.0.0.2",
        advice: "Both sides need the same one: …"}

  `:level` is `:ok`, `:note`, `:warning` (it works, but not as one would like) or `:problem`.

  | check | what is looked at |
  |---|---|
  | `:distribution` | whether this node has a name |
  | `:proto_dist` | `-proto_dist`: given once, and the same family, IPv4 or IPv6, on both sides |
  | `:address` | whether the host's name has an address |
  | `:route` | whether packets get there |
  | `:epmd` | whether its epmd answers |
  | `:node` | whether a node of that name is registered with it |
  | `:port` | whether the node's own port is open to us |
  | `:handshake` | whether what listens there is a node that takes connections |
  | `:cookie` | whether the cookie is right |
  | `:names` | long against short names; what the host calls itself |
  | `:connection` | whether the two were connected in the end |
  | `:otp`, `:elixir` | whether the versions are the same |
  | `:hidden` | who sees whom |
  | `:gpu_sched`, `:version` | whether the host has this library, and which |
  | `:scheduler`, `:sched_port` | whether a scheduler runs there, and its `sched-port` |
  | `:model`, `:gpu` | whether there is a model, and a GPU |
  | `:round_trip`, `:bandwidth` | what a call takes, and how fast what is large travels |
  """

  alias GpuSched.Doctor.{Finding, Handshake, Host, Network}

  @type finding :: %{
          check: atom,
          level: :ok | :note | :warning | :problem,
          text: String.t(),
          advice: String.t() | nil
        }

  @doc """
  Looks at everything between this node and `target`: a node, or `{scheduler, node}`.

  Options: `:timeout` - how long each step may wait for the network, in ms; 5000.
  """
  @spec examine(node | {atom, node}, [{:timeout, pos_integer}]) :: [finding]
  def examine(target, opts \\ [])

  def examine({server, node}, opts) when is_atom(server) and is_atom(node),
    do: run(node, server, opts)

  def examine(node, opts) when is_atom(node) and node != nil, do: run(node, nil, opts)

  def examine(other, _opts) do
    raise ArgumentError,
          "the doctor looks at a node, as :\"gpu@10.0.0.2\" or {MyApp.Gpu, :\"gpu@10.0.0.2\"}; got " <>
            inspect(other, limit: 5, printable_limit: 80)
  end

  defp run(node, server, opts) do
    case way(node, opts) do
      {:ok, findings} -> findings ++ Host.examine(node, server)
      {:error, findings} -> findings
    end
  end

  defp way(node, _opts) when node == node(),
    do: {:ok, [Finding.ok(:network, "#{node} is this node")]}

  defp way(node, opts) do
    case GpuSched.Doctor.Node.alive() do
      [] ->
        if node in Node.list(:connected),
          do: {:ok, [Finding.ok(:connection, "#{node} is connected")]},
          else: connect(node, opts)

      findings ->
        {:error, findings}
    end
  end

  defp connect(node, opts) do
    opts = [
      cookie: :erlang.get_cookie(node),
      family: GpuSched.Doctor.Node.family(),
      port: GpuSched.Doctor.Node.fixed_port(),
      timeout: Keyword.get(opts, :timeout, 5_000)
    ]

    with {:ok, found, findings} <- Network.reach(Atom.to_string(node), opts),
         {:ok, findings} <- matches(node, found, findings),
         {:ok, findings} <- alone(node, found, findings, opts[:timeout]) do
      connected? = Node.connect(node) == true

      case {connected?, GpuSched.Doctor.Node.given_twice(connected?)} do
        {true, twice} ->
          {:ok, findings ++ twice ++ [Finding.ok(:connection, "#{node} is connected")]}

        {false, []} ->
          {:error, findings ++ [unconnected(node)]}

        {false, twice} ->
          {:error, findings ++ twice}
      end
    end
  end

  defp matches(node, found, findings) do
    case GpuSched.Doctor.Node.matches(node, found) do
      [] -> {:ok, findings}
      more -> {:error, Enum.map(findings, &Finding.soften/1) ++ more}
    end
  end

  # A node that is connected to has one connection for a name: who comes second takes the first one's
  # place, the first comes back with its next call, and neither gets anything done.
  defp alone(node, found, findings, timeout) do
    case Handshake.ask(found.address, found.port, nil, timeout, node()) do
      {:error, {:refused, "alive"}} ->
        {:error, Enum.map(findings, &Finding.soften/1) ++ [twin(node)]}

      _ ->
        {:ok, findings}
    end
  end

  defp twin(node) do
    Finding.problem(
      :names,
      "#{node} is connected to a node called #{node()} already, as this one is called too",
      "Start this one under another name; connecting would cut the other off. If that was this node, " <>
        "before its network changed, then Node.connect(#{inspect(node)}) takes its place, and so does " <>
        "every call."
    )
  end

  defp unconnected(node) do
    Finding.problem(
      :connection,
      "#{node} answers, and still no connection came about",
      "Its log may say why. Does it run with -proto_dist inet_tls, or allow certain nodes only?"
    )
  end

  @doc false
  @spec print(node | {atom, node}) :: :ok | {:error, [atom]}
  def print(target) do
    findings = examine(target)
    Finding.print(findings)

    case for %{level: :problem, check: check} <- findings, uniq: true, do: check do
      [] -> :ok
      checks -> {:error, checks}
    end
  end
end
