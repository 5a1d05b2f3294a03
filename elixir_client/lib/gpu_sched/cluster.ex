# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Cluster do
  @moduledoc """
  Several hosts as one: who is there, what each has, and `:any` as the first argument.

      {:ok, hosts} = GpuSched.cluster()
      {:ok, result} = GpuSched.infer(:any, "minilm", %{"text" => ["hello"]})

  ## How hosts know each other

  Wherever the application `:gpu_sched` runs there is a member, in a group of `:pg`. Those that have
  schedulers announce them to all others some times a second: their models and devices, how much is
  in flight, the region, and what a request takes. Each measures the round trip to the others itself.

  `:pg` does not reach hidden nodes, as laptops should be: a hidden node's member asks the hosts it is
  connected to, which pass on what they hear from the others, until nobody has wanted to know for a
  minute. It tries to connect to those as well; one that it cannot reach is called through the host that
  told of it. A hidden node passes nothing on, so a laptop that is connected to two clusters sees both,
  and they do not see each other. A node that does not run the
  application gets all of this by calling a host: `:erpc.call(host, GpuSched, :infer, [:any, …])`.

  Nothing is sent where there is nobody to hear it.

  ## How `:any` chooses

  Among the schedulers that are up, are heard from, and have the model ready, two are drawn, near ones
  more often than far ones, and that one is taken whose answer is expected first: the round trip, and
  what is in flight there at the pace that it has kept. (Of two, because all who know the same would
  otherwise rush to the same host.)

  Where that one is lost, is down, closing, full, or does not have the model after all, another is
  tried, with the time that is left. So a request may be computed twice: when the connection to a host
  was lost, nobody knows how far it was. What is wrong with the request itself is answered at once.
  `:infer`, `:async` and `:infer_many` take `:any`.

  Where all of them are full, the answer is `:overloaded`, or waiting, with `overload: :wait`.

  ## Configuration

      config :gpu_sched, region: "fra", cluster: [interval: 250]

    * `:region` - what this host says; unless given, that of `FLY_REGION`, else none;
    * `:interval` - how often it announces itself, in ms. A host that has not been heard of for eight
      times as long is avoided. When nothing at all came from it for that time, not even a part of
      something large, what waits for it tries another. (Over TLS nobody can tell: there it takes until
      the connection is given up, `net_ticktime`.)
  """

  alias GpuSched.Cluster.{Member, Table}
  alias GpuSched.Error

  @doc false
  @spec list(timeout) :: {:ok, [map]} | {:error, Error.t()}
  def list(timeout) do
    with :ok <- Member.look(timeout), do: {:ok, Enum.map(Table.all(), &plain/1)}
  end

  # Plain terms, for nodes that have none of our code.
  defp plain(entry) do
    %{
      "server" => {entry.name || entry.pid, entry.node},
      "node" => entry.node,
      "state" => Atom.to_string(if Table.silent?(entry), do: :silent, else: entry.state),
      "region" => entry.region,
      "round_trip_us" => Table.round_trip(entry),
      "via" => entry.via,
      "in_flight" => entry.in_flight,
      "capacity" => entry.capacity,
      "models" => Map.new(entry.models, fn {name, model} -> {name, model.state} end),
      "devices" => entry.devices
    }
  end
end
