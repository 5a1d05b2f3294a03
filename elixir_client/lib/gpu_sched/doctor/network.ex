# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Doctor.Network do
  # The way to a node, one step after the other: its address, the epmd there, its own port, what it
  # calls itself, whether the cookie is right. The first step that fails is what is wrong.
  @moduledoc false

  alias GpuSched.Doctor.{Address, Finding, Handshake}

  @timeout 5_000

  # A node that was reached: `host` of its own name need not be what it was looked up by.
  @type found :: %{
          node: String.t(),
          address: Address.ip(),
          own: Address.ip(),
          port: :inet.port_number(),
          cookie: :right | :wrong | :not_asked
        }

  @doc false
  # `target` is "name@host" or "host". Options:
  #   :cookie   an atom, to be checked; else it is not
  #   :dns      {address, port} of a name server
  #   :port     that of the node, where there is no epmd to ask
  #   :prefer   names that are taken where several nodes are registered there
  #   :family   the one to try first
  #   :timeout  of each step, in ms
  @spec reach(String.t(), keyword) :: {:ok, found, [Finding.t()]} | {:error, [Finding.t()]}
  def reach(target, opts \\ []) do
    {name, host} = Address.split(target)
    timeout = Keyword.get(opts, :timeout, @timeout)

    with :ok <- usable(opts[:cookie]),
         {:ok, addresses} <- Address.all(host, opts[:dns], opts[:family], timeout) do
      first(addresses, name, host, opts, timeout, [])
    else
      {:error, finding} -> {:error, [finding]}
    end
  end

  defp usable(cookie) do
    if cookie == nil or Handshake.usable?(cookie) do
      :ok
    else
      {:error,
       Finding.problem(
         :cookie,
         "the cookie has characters that Erlang's handshake does not take (above U+00FF)",
         "Take letters, digits and signs of ASCII, on both sides."
       )}
    end
  end

  # A machine may have several addresses, and answer on some of them only.
  defp first([], _name, _host, _opts, _timeout, findings), do: {:error, Enum.reverse(findings)}

  defp first([address | rest], name, host, opts, timeout, findings) do
    case try_address(address, name, host, opts, timeout) do
      {:ok, found, more} ->
        {:ok, found, Enum.map(Enum.reverse(findings), &Finding.soften/1) ++ more}

      {:error, finding} ->
        first(rest, name, host, opts, timeout, [finding | findings])
    end
  end

  defp try_address(address, name, host, opts, timeout) do
    with {:ok, name, port} <- port(address, name, host, opts, timeout),
         {:ok, answer} <- shake_hands(address, name, port, opts[:cookie], timeout) do
      found = Map.merge(answer, %{address: address, port: port})

      text =
        "#{answer.node} answers on #{Address.text(address)}, port #{port}" <>
          if(answer.cookie == :right, do: ", and the cookie is right", else: "")

      case cookie(answer, opts[:cookie]) do
        :ok -> {:ok, found, [Finding.ok(:network, text)]}
        finding -> {:error, finding}
      end
    end
  end

  # ---- epmd

  defp port(address, name, host, opts, timeout) do
    case opts[:port] do
      nil -> ask_epmd(address, name, host, opts, timeout)
      port -> {:ok, name, port}
    end
  end

  defp ask_epmd(address, name, host, opts, timeout) do
    case names(address, timeout) do
      {:ok, nodes} -> choose(nodes, address, name, host, opts)
      {:error, reason} -> {:error, no_epmd(reason, address, timeout)}
    end
  end

  # The nodes that are registered there, as a map from their names to their ports.
  @spec names(Address.ip(), timeout) ::
          {:ok, %{String.t() => :inet.port_number()}} | {:error, term}
  def names(address, timeout) do
    options = [Address.family(address), :binary, active: false]

    with {:ok, socket} <- :gen_tcp.connect(address, epmd_port(), options, timeout) do
      try do
        ask_names(socket, timeout)
      after
        :gen_tcp.close(socket)
      end
    end
  end

  defp ask_names(socket, timeout) do
    with :ok <- :gen_tcp.send(socket, <<1::16, ?n>>),
         {:ok, <<_port::32, text::binary>>} <- everything(socket, "", timeout) do
      lines = Regex.scan(~r/^name (\S+) at port (\d{1,5})$/m, text, capture: :all_but_first)
      {:ok, Map.new(lines, fn [name, port] -> {name, String.to_integer(port)} end)}
    else
      {:ok, _other} -> {:error, :no_epmd}
      {:error, reason} -> {:error, reason}
    end
  end

  # No machine has so many nodes: what sends more is no epmd.
  defp everything(_socket, text, _timeout) when byte_size(text) > 1_048_576,
    do: {:error, :no_epmd}

  defp everything(socket, text, timeout) do
    case :gen_tcp.recv(socket, 0, timeout) do
      {:ok, more} -> everything(socket, text <> more, timeout)
      {:error, :closed} -> {:ok, text}
      {:error, reason} -> {:error, reason}
    end
  end

  defp epmd_port do
    case Integer.parse(System.get_env("ERL_EPMD_PORT") || "") do
      {port, ""} when port in 1..65_535 -> port
      _ -> 4369
    end
  end

  defp choose(nodes, address, nil, host, opts) do
    preferred = Enum.find(opts[:prefer] || [], &is_map_key(nodes, &1))

    case {preferred, Map.to_list(nodes)} do
      {nil, [{name, port}]} ->
        {:ok, name, port}

      {nil, []} ->
        {:error,
         Finding.problem(
           :node,
           "epmd runs on #{Address.text(address)}, but no node is registered with it",
           "Start the host, with a name: elixir --name gpu@#{Address.text(address)} …"
         )}

      {nil, several} ->
        {:error,
         Finding.problem(
           :node,
           "several nodes run on #{host}: #{Enum.map_join(several, ", ", &elem(&1, 0))}",
           "Say which: #{several |> hd() |> elem(0)}@#{host}"
         )}

      {name, _} ->
        {:ok, name, nodes[name]}
    end
  end

  defp choose(nodes, address, name, _host, _opts) do
    case nodes do
      %{^name => port} ->
        {:ok, name, port}

      _ ->
        there =
          if nodes == %{},
            do: "none is",
            else: "these are: " <> Enum.join(Map.keys(nodes), ", ")

        {:error,
         Finding.problem(
           :node,
           "no node called #{name} is registered on #{Address.text(address)}; #{there}",
           "Is it running, and called so? On Fly the name changes with each deploy."
         )}
    end
  end

  defp no_epmd(:econnrefused, address, _timeout) do
    Finding.problem(
      :epmd,
      "nothing listens on port #{epmd_port()} of #{Address.text(address)}, where epmd belongs",
      "Is a node running there, with --name or --sname? Does a firewall reject that port? A host " <>
        "that runs without epmd is reached by --port, the port it listens on."
    )
  end

  defp no_epmd(:no_epmd, address, _timeout) do
    Finding.problem(
      :epmd,
      "what listens on port #{epmd_port()} of #{Address.text(address)} is no epmd",
      "Something else took the port; ERL_EPMD_PORT names another one, on both sides."
    )
  end

  defp no_epmd(reason, address, timeout), do: no_route(reason, address, epmd_port(), timeout)

  defp no_route(reason, address, port, timeout) do
    what =
      case reason do
        :timeout -> "#{Address.text(address)} does not answer (port #{port}, #{timeout} ms)"
        reason -> "there is no route to #{Address.text(address)} (#{explain(reason)})"
      end

    Finding.problem(
      :route,
      what,
      "Is the machine up, and the VPN, if it is behind one? A firewall that drops packets looks " <>
        "like this as well: the host has to let port #{epmd_port()} (epmd) and the node's own through."
    )
  end

  # ---- the node itself

  defp shake_hands(address, name, port, cookie, timeout) do
    case Handshake.ask(address, port, cookie, timeout) do
      {:ok, answer} ->
        {:ok, answer}

      {:error, reason} when reason in [:no_handshake, :closed, :econnreset] ->
        {:error,
         Finding.problem(
           :handshake,
           "what listens on port #{port} of #{Address.text(address)} does not speak Erlang's " <>
             "distribution",
           "A node with -proto_dist inet_tls takes TLS, which this does not try; else the port is " <>
             "somebody else's."
         )}

      {:error, {:refused, status}} ->
        {:error,
         Finding.problem(
           :handshake,
           "#{name || "the node"} on #{Address.text(address)} refuses connections: #{status}",
           "Is its list of allowed nodes (:net_kernel.allow/1) set?"
         )}

      {:error, reason} ->
        {:error,
         Finding.problem(
           :port,
           "#{name || "the node"} listens on port #{port} of #{Address.text(address)}, and that " <>
             "port is closed to us (#{explain(reason)})",
           "Open it in the host's firewall. -kernel inet_dist_listen_min 9100 " <>
             "inet_dist_listen_max 9100 has the node listen on a port that you choose. A node of " <>
             "the other family (IPv4, IPv6: -proto_dist inet6_tcp) is closed to this one too."
         )}
    end
  end

  defp cookie(%{cookie: :wrong} = answer, _cookie) do
    Finding.problem(
      :cookie,
      "the cookie is not that of #{answer.node}",
      "Both sides need the same one: RELEASE_COOKIE, --cookie-file, or ~/.erlang.cookie. On the " <>
        "host, Node.get_cookie() says it."
    )
  end

  defp cookie(_answer, _cookie), do: :ok

  defp explain(reason) when is_atom(reason), do: to_string(:inet.format_error(reason))
  defp explain(reason), do: inspect(reason, limit: 5)
end
