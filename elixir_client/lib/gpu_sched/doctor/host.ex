# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Doctor.Host do
  # What there is on the other side of a connection, asked through it. Everything is a plain :erpc:
  # over there may be another version of this library, or none.
  @moduledoc false

  alias GpuSched.Doctor.Finding

  @timeout 10_000

  # The application's modules that are looked for.
  @facade GpuSched

  @spec examine(node, term) :: [Finding.t()]
  def examine(node, server \\ nil) do
    versions(node) ++ visibility(node) ++ library(node, server) ++ measure(node)
  end

  # ---- the two BEAMs

  @spec versions(node, %{otp: String.t(), elixir: String.t()}) :: [Finding.t()]
  def versions(node, ours \\ own_versions()) do
    otp =
      with {:ok, release} <- ask(node, :erlang, :system_info, [:otp_release]),
           do: {:ok, to_string(release)}

    elixir = ask(node, System, :version, [])

    [
      compare(:otp, "OTP", {ours.otp, otp}, node),
      compare(:elixir, "Elixir", {ours.elixir, elixir}, node)
    ]
  end

  defp own_versions, do: %{otp: System.otp_release(), elixir: System.version()}

  defp compare(check, what, {same, {:ok, same}}, _node),
    do: Finding.ok(check, "#{what} #{same} on both sides")

  defp compare(check, what, {ours, {:ok, theirs}}, node) do
    Finding.warning(
      check,
      "#{what} differs: #{ours} here, #{theirs} on #{node}",
      "Calls with plain terms work. Modules and closures of one side may not load or mean the same " <>
        "on the other: install the same version."
    )
  end

  defp compare(check, what, {_ours, {:error, _}}, node),
    do: Finding.note(check, "#{node} has no #{what}, or does not say which")

  # Who sees whom. A visible node is connected to every other visible one, whether it can reach it
  # or not.
  @spec visibility(node) :: [Finding.t()]
  def visibility(node) do
    seen? = node in Node.list()
    theirs = ok(ask(node, :erlang, :nodes, []), [])

    cond do
      seen? and theirs -- [node() | Node.list()] != [] ->
        [
          Finding.warning(
            :hidden,
            "this node is visible to #{node}, and not connected to " <>
              Enum.join(theirs -- [node() | Node.list()], ", "),
            "OTP takes that for a torn network, and cuts hosts off from each other " <>
              "(prevent_overlapping_partitions of :global): start this node with --hidden."
          )
        ]

      seen? ->
        [Finding.ok(:hidden, "#{node} and this node are visible to each other")]

      true ->
        [
          Finding.note(
            :hidden,
            "one of the two is hidden: #{node} is not in Node.list() here, and :pg does not see " <>
              "across; :erpc and all of GpuSched do"
          )
        ]
    end
  end

  # ---- our library over there

  @spec library(node, term) :: [Finding.t()]
  def library(node, server) do
    case ask(node, :code, :which, [@facade]) do
      {:ok, :non_existing} ->
        [
          Finding.problem(
            :gpu_sched,
            "#{node} does not have gpu_sched",
            "Is it the right node? Else add the dependency there, and start a scheduler."
          )
        ]

      {:ok, _path} ->
        version(node) ++ schedulers(node, server)

      {:error, reason} ->
        [
          Finding.problem(
            :connection,
            "#{node} was connected, and does not answer: #{reason}",
            "Was the connection lost? Try again."
          )
        ]
    end
  end

  defp version(node) do
    theirs = {theirs_vsn(node), ok(ask(node, @facade, :module_info, [:md5]), nil)}

    if Code.ensure_loaded?(@facade),
      do: [compare_versions(node, ours(), theirs)],
      else: [Finding.ok(:version, "#{node} has gpu_sched #{elem(theirs, 0)}, this node none")]
  end

  defp ours, do: {vsn(Application.spec(:gpu_sched, :vsn)), @facade.module_info(:md5)}

  defp compare_versions(_node, same, same),
    do: Finding.ok(:version, "gpu_sched #{elem(same, 0)} on both sides")

  defp compare_versions(_node, {vsn, _}, {vsn, _}) do
    Finding.note(
      :version,
      "gpu_sched #{vsn} on both sides, but not built from the same source, or by another compiler"
    )
  end

  defp compare_versions(node, {ours, _}, {theirs, _}) do
    Finding.warning(
      :version,
      "gpu_sched differs: #{ours} here, #{theirs} on #{node}",
      "Update the older one. A node without gpu_sched of its own gets the host's from " <>
        "gpu_sched connect."
    )
  end

  defp theirs_vsn(node), do: vsn(ok(ask(node, :application, :get_key, [:gpu_sched, :vsn]), nil))

  defp vsn({:ok, vsn}), do: to_string(vsn)
  defp vsn(vsn) when is_list(vsn), do: to_string(vsn)
  defp vsn(_none), do: "of unknown version"

  defp schedulers(node, server) do
    case ask(node, GpuSched.Directory, :schedulers, []) do
      {:ok, []} ->
        [
          Finding.problem(
            :scheduler,
            "no scheduler runs on #{node}",
            "Start one there: {GpuSched, name: MyApp.Gpu, models: […]} under a supervisor."
          )
        ]

      {:ok, schedulers} ->
        wanted = Enum.filter(schedulers, &(server == nil or &1.name == server))

        if wanted == [],
          do: [not_called(node, server, schedulers)],
          else: Enum.flat_map(wanted, &scheduler(node, &1))

      {:error, reason} ->
        [
          Finding.problem(
            :gpu_sched,
            "#{node} has a gpu_sched that does not say which schedulers run: #{reason}",
            "It is older than this one, or its application is not started: update it, or call " <>
              "Application.ensure_all_started(:gpu_sched) there."
          )
        ]
    end
  end

  defp not_called(node, server, schedulers) do
    Finding.problem(
      :scheduler,
      "no scheduler on #{node} is called #{inspect(server)}; there are: " <>
        Enum.map_join(schedulers, ", ", &inspect(&1.name)),
      "Name one of these."
    )
  end

  defp scheduler(node, %{state: :up} = s) do
    name = "#{inspect(s.name)} on #{node}"

    case {ask(node, @facade, :models, [s.pid]), ask(node, @facade, :devices, [s.pid])} do
      {{:ok, {:ok, models}}, {:ok, {:ok, devices}}} ->
        [Finding.ok(:scheduler, "#{name} is up")] ++
          models(name, models) ++ devices(name, devices)

      {one, other} ->
        [down(name, "it does not answer: #{inspect({one, other}, limit: 5)}")]
    end
  end

  defp scheduler(node, s),
    do: [down("#{inspect(s.name)} on #{node}", "its sched-port is #{s.state}")]

  defp down(name, why) do
    Finding.problem(
      :sched_port,
      "#{name} is there, but #{why}",
      "It is restarted by itself, with growing pauses; the host's log says why it ended."
    )
  end

  defp models(name, []) do
    [
      Finding.warning(
        :model,
        "#{name} has no model",
        ~s(GpuSched.load\(server, "minilm", path: "/models/…"\), or models: of its child specification.)
      )
    ]
  end

  defp models(name, models) do
    {ready, others} = Enum.split_with(models, &(&1["state"] == "ready"))
    {failed, loading} = Enum.split_with(others, &(&1["state"] == "failed"))

    for(
      model <- failed,
      do:
        Finding.problem(
          :model,
          "#{model["name"]} of #{name} could not be loaded: #{model["error"]["message"]}",
          "Look at its path on the host, and load it again."
        )
    ) ++
      for(m <- loading, do: Finding.note(:model, "#{m["name"]} of #{name} is #{m["state"]}")) ++
      if(ready == [],
        do: [],
        else: [
          Finding.ok(:model, "#{name} serves #{Enum.map_join(ready, ", ", & &1["name"])}")
        ]
      )
  end

  defp devices(name, devices) do
    {usable, others} =
      devices |> Enum.filter(&(&1["kind"] == "gpu")) |> Enum.split_with(& &1["usable"])

    cond do
      usable != [] ->
        [Finding.ok(:gpu, "#{name} has #{Enum.map_join(usable, ", ", & &1["name"])}")]

      others != [] ->
        [
          Finding.warning(
            :gpu,
            "no GPU of #{name} can be used: " <>
              Enum.map_join(others, "; ", &"#{&1["name"]}: #{&1["reason"]}"),
            "Work runs on its CPUs meanwhile."
          )
        ]

      true ->
        [
          Finding.warning(
            :gpu,
            "#{name} has found no GPU",
            "Does nvidia-smi see one there? In a container it takes --gpus all. Work runs on its " <>
              "CPUs meanwhile."
          )
        ]
    end
  end

  # ---- the connection

  @calls 21
  @mib 1_048_576

  # What a call takes, and how fast what is large travels. On a slow connection less is sent.
  @spec measure(node) :: [Finding.t()]
  def measure(node) do
    with {:ok, _} <- ask(node, :erlang, :node, []),
         times = for(_ <- 1..@calls, do: time(node, :erlang, :node, [])),
         false <- Enum.any?(times, &(&1 == :failed)) do
      median = times |> Enum.sort() |> Enum.at(div(@calls, 2))

      [
        Finding.ok(:round_trip, "round trip #{ms(median)} (median of #{@calls} calls)"),
        bandwidth(node, @mib, median)
      ]
    else
      _ -> [Finding.problem(:round_trip, "the connection to #{node} was lost", "Try again.")]
    end
  end

  defp bandwidth(node, bytes, rtt) do
    data = :binary.copy(<<0x5A>>, bytes)

    case time(node, :erlang, :byte_size, [data]) do
      :failed ->
        Finding.problem(:bandwidth, "#{bytes} bytes did not arrive at #{node}", "Try again.")

      # Fast enough for a larger one to say more.
      us when us < 100_000 and bytes < 16 * @mib ->
        bandwidth(node, 4 * bytes, rtt)

      us ->
        rate = bytes / max(us - rtt, 1)

        Finding.ok(
          :bandwidth,
          "bandwidth #{:erlang.float_to_binary(rate, decimals: 1)} MB/s to the host " <>
            "(#{div(bytes, @mib)} MiB at once)"
        )
    end
  end

  defp time(node, module, function, args) do
    begin = System.monotonic_time(:microsecond)

    case ask(node, module, function, args) do
      {:ok, _} -> System.monotonic_time(:microsecond) - begin
      {:error, _} -> :failed
    end
  end

  defp ms(us), do: :erlang.float_to_binary(us / 1_000, decimals: 2) <> " ms"

  # ---- asking

  @spec ask(node, module, atom, list) :: {:ok, term} | {:error, String.t()}
  def ask(node, module, function, args) do
    {:ok, :erpc.call(node, module, function, args, @timeout)}
  catch
    :error, {:exception, :undef, [{module, function, _, _} | _]} ->
      {:error, "#{inspect(module)}.#{function} is undefined there"}

    kind, reason ->
      {:error, "#{kind}: #{inspect(reason, limit: 5)}"}
  end

  defp ok({:ok, value}, _default), do: value
  defp ok({:error, _reason}, default), do: default
end
