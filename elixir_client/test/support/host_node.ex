# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.HostNode do
  # Hosts and laptops of tests that are about how nodes find each other: each has a cookie, a family
  # and flags of its own, and is spoken to through its standard input, so that it need not be
  # connected to the test's node.
  @moduledoc false

  defstruct [:peer, :node, :cookie]

  # Options: :name, :host ("127.0.0.1"), :longnames (true), :cookie, :hidden (false), :args, :library
  # (true: it has this library, started; :path: has it; false), :named (true).
  def start(options \\ []) do
    unique = "#{System.unique_integer([:positive])}_#{System.pid()}"
    name = Keyword.get(options, :name, "host") <> "_" <> unique
    host = Keyword.get(options, :host, "127.0.0.1")
    cookie = Keyword.get(options, :cookie, "cookie_#{unique}_#{:rand.uniform(0xFFFFFFFF)}")
    library = Keyword.get(options, :library, true)

    args =
      ["-setcookie", cookie] ++
        if(options[:hidden], do: ["-hidden"], else: []) ++
        if(library, do: Enum.flat_map(:code.get_path(), &["-pa", &1]), else: []) ++
        if(String.contains?(host, ":"), do: ["-proto_dist", "inet6_tcp"], else: []) ++
        Keyword.get(options, :args, [])

    spec = %{
      connection: :standard_io,
      args: Enum.map(args, &to_charlist/1),
      wait_boot: 60_000
    }

    spec =
      if Keyword.get(options, :named, true),
        do:
          Map.merge(spec, %{
            name: String.to_atom(name),
            host: to_charlist(host),
            longnames: Keyword.get(options, :longnames, true)
          }),
        else: spec

    {:ok, peer, node} = start_peer(spec, options[:exec])
    ExUnit.Callbacks.on_exit(fn -> stop(peer) end)
    host = %__MODULE__{peer: peer, node: node, cookie: cookie}

    if library == true do
      call(host, :logger, :set_primary_config, [:level, :none])
      {:ok, _} = call(host, Application, :ensure_all_started, [:gpu_sched])
    end

    host
  end

  # :peer knows its node's name only where that was given; and `exec` runs it elsewhere.
  defp start_peer(spec, exec) do
    spec = if exec, do: Map.put(spec, :exec, exec), else: spec

    case :peer.start(spec) do
      {:ok, peer, node} -> {:ok, peer, node}
      {:ok, peer} -> {:ok, peer, nil}
    end
  end

  defp stop(peer) do
    :peer.stop(peer)
  catch
    # It was killed by the test.
    :exit, _ -> :ok
  end

  def call(%__MODULE__{peer: peer}, module, function, args, timeout \\ 60_000),
    do: :peer.call(peer, module, function, args, timeout)

  # A scheduler there, on the fake port, or with `options` of another one.
  def scheduler(host, options \\ []) do
    options = Keyword.merge([name: GpuSched] ++ GpuSched.FakePort.options(), options)
    {:ok, pid} = call(host, Supervisor, :start_child, [GpuSched.Supervisor, {GpuSched, options}])
    pid
  end

  def os_pid(host), do: host |> call(:os, :getpid, []) |> List.to_integer()

  # The cookie as a file that only this user can read.
  def cookie_file(host, folder) do
    path = Path.join(folder, "cookie-#{System.unique_integer([:positive])}")
    File.write!(path, host.cookie <> "\n")
    File.chmod!(path, 0o600)
    path
  end
end
