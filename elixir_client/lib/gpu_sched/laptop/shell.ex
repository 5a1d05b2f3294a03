# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Laptop.Shell do
  # What `gpu_sched connect` runs inside iex: gives this node a name, connects it, fetches the API.
  # The name and the cookie are not among the arguments of the program, where everybody can read them.
  @moduledoc false

  alias GpuSched.Doctor.{Address, Finding, Host}
  alias GpuSched.Doctor.Node, as: DoctorNode
  alias GpuSched.Laptop.Modules

  # Answers the host, connected; ends this node where that cannot be had.
  @spec open :: node
  def open do
    found = read(System.fetch_env!("GPU_SCHED_CONNECT_FOLDER"))
    visible? = System.get_env("GPU_SCHED_CONNECT_VISIBLE", "") != ""
    host = String.to_atom(found.node)

    with [] <- DoctorNode.given_twice(false),
         :ok <- start(found, visible?),
         :ok <- set_cookie(found.cookie),
         :ok <- resolve(found),
         true <- connect(host) do
      findings = Modules.load(host) ++ Host.versions(host)
      greet(host, findings, visible?)
      host
    else
      findings when is_list(findings) -> give_up(host, findings)
      {:error, finding} -> give_up(host, [finding])
    end
  end

  # `gpu_sched doctor`: everything that can be looked at, then the end.
  @spec doctor :: no_return
  def doctor do
    found = read(System.fetch_env!("GPU_SCHED_CONNECT_FOLDER"))
    host = String.to_atom(found.node)

    with [] <- DoctorNode.given_twice(false),
         :ok <- start(found, false),
         :ok <- set_cookie(found.cookie),
         :ok <- resolve(found),
         true <- connect(host) do
      findings = [Finding.ok(:connection, "#{host} is connected") | Host.examine(host)]
      Finding.print(findings)
      System.halt(if Enum.any?(findings, &(&1.level == :problem)), do: 1, else: 0)
    else
      findings when is_list(findings) -> give_up(host, findings)
      {:error, finding} -> give_up(host, [finding])
    end
  end

  # Nothing of the folder is needed any more: iex has read its own file, which is where this is called.
  defp read(folder) do
    [_proto, node, address, own] = folder |> Path.join("found") |> File.read!() |> String.split()
    {:ok, address} = Address.parse(address)
    path = Path.join(folder, "cookie")

    cookie =
      case File.read(path) do
        {:ok, text} -> String.to_atom(String.trim(text))
        {:error, _posix} -> nil
      end

    _ = File.rm_rf(folder)
    %{node: node, address: address, own: own, cookie: cookie}
  end

  # Hidden, it listens on nothing, and needs no epmd. Two laptops must not have the same name.
  defp start(found, visible?) do
    long? = DoctorNode.long?(found.node)
    if visible?, do: start_epmd()

    options = %{
      name_domain: if(long?, do: :longnames, else: :shortnames),
      hidden: not visible?,
      dist_listen: visible?
    }

    case :net_kernel.start(name(found, long?), options) do
      {:ok, _pid} ->
        :ok

      {:error, reason} ->
        {:error,
         Finding.problem(
           :distribution,
           "this node could not be given a name: #{inspect(reason, limit: 8)}",
           "A visible node needs epmd; without --visible it needs none."
         )}
    end
  end

  # That of Erlang itself where none is on the path.
  defp start_epmd do
    own = "#{:code.root_dir()}/erts-#{:erlang.system_info(:version)}/bin/epmd"
    epmd = System.find_executable("epmd") || System.find_executable(own)
    if epmd, do: System.cmd(epmd, ["-daemon"], stderr_to_stdout: true)
  end

  defp name(found, long?) do
    user = System.get_env("USER") || "laptop"
    user = String.replace(user, ~r/[^A-Za-z0-9_-]/, "")

    unique =
      0x100000000 |> :rand.uniform() |> Kernel.-(1) |> Integer.to_string(36) |> String.downcase()

    {:ok, machine} = :inet.gethostname()
    machine = machine |> to_string() |> String.split(".") |> hd()
    :"#{user}-#{unique}@#{if long?, do: found.own, else: machine}"
  end

  # For all nodes: the hosts of a cluster have the same one, and this node gets to know the others.
  defp set_cookie(nil), do: :ok

  defp set_cookie(cookie) do
    true = :erlang.set_cookie(node(), cookie)
    :ok
  end

  # The host's name may be one that only the name server of its network knows, or none at all.
  defp resolve(found) do
    [_, machine] = String.split(found.node, "@", parts: 2)

    if Address.parse(machine) == :error do
      :inet_db.add_host(found.address, [to_charlist(machine)])
      :inet_db.set_lookup([:file | List.delete(:inet_db.res_option(:lookup), :file)])
    end

    :ok
  end

  defp connect(host) do
    Node.connect(host) == true ||
      {:error,
       Finding.problem(
         :connection,
         "#{host} was found, and still no connection came about",
         "Its log may say why. gpu_sched doctor says more."
       )}
  end

  @spec give_up(node, [Finding.t()]) :: no_return
  defp give_up(host, findings) do
    IO.puts(:stderr, "gpu_sched: #{host} cannot be connected to:")
    Finding.print(findings, :stderr)
    System.halt(1)
  end

  # ---- the greeting

  defp greet(host, findings, visible?) do
    Finding.print(findings)
    others = Host.visibility(host)
    if visible?, do: Finding.print(warn_visible(others))

    IO.puts("""

    This is #{node()}, connected to #{host}, which is bound to `host`. Try

        GpuSched.infer({GpuSched, host}, "minilm", %{"text" => ["hello", "world"]})
        GpuSched.cluster()
        GpuSched.doctor(host)

    where GpuSched in {GpuSched, host} is the scheduler's name. On the host there #{schedulers(host)}.
    """)
  end

  defp schedulers(host) do
    case Host.ask(host, GpuSched.Directory, :schedulers, []) do
      {:ok, []} -> "is none at the moment"
      {:ok, [one]} -> "is #{inspect(one.name)}"
      {:ok, several} -> "are #{Enum.map_join(several, ", ", &inspect(&1.name))}"
      {:error, _} -> "may be one"
    end
  end

  defp warn_visible(others) do
    Enum.filter(others, &(&1.level == :warning)) ++
      [
        Finding.note(
          :hidden,
          "this node is visible: every visible node of the cluster is connected to it. Should it not " <>
            "reach one of them, OTP's :global cuts that one off from the others " <>
            "(prevent_overlapping_partitions), and hosts lose each other on account of a laptop"
        )
      ]
  end
end
