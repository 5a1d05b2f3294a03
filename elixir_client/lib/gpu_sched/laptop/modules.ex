# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Laptop.Modules do
  # The client's modules, from the host, where this node has none: so a laptop with nothing but Elixir
  # has the whole API, in the very version that the host speaks.
  @moduledoc false

  alias GpuSched.Doctor.Finding

  @timeout 30_000

  # Answers what is worth saying about it. A version of this node's own is left alone: half of the one
  # and half of the other would be worse than either.
  @spec load(node) :: [Finding.t()]
  def load(host) do
    with {:ok, vsn, modules} <- about(host) do
      if Code.ensure_loaded?(GpuSched),
        do: compare(host, vsn),
        else: install(host, vsn, modules)
    else
      {:error, finding} -> [finding]
    end
  catch
    kind, reason ->
      [
        Finding.problem(
          :gpu_sched,
          "the modules of gpu_sched did not come from #{host}: " <>
            "#{kind}, #{inspect(reason, limit: 5)}",
          "Plain calls work all the same: :erpc.call(host, GpuSched, :infer, […])."
        )
      ]
  end

  defp about(host) do
    with {:ok, modules} <- call(host, :application, :get_key, [:gpu_sched, :modules]),
         {:ok, vsn} <- call(host, :application, :get_key, [:gpu_sched, :vsn]) do
      {:ok, to_string(vsn), modules}
    else
      _ ->
        {:error,
         Finding.problem(
           :gpu_sched,
           "#{host} does not have gpu_sched, or its application is not started",
           "The shell works, and :erpc does; gpu_sched is what is missing."
         )}
    end
  end

  defp compare(host, vsn) do
    case own_version() do
      ^vsn ->
        same_code(host, vsn)

      own ->
        [other_version(host, vsn, own)]
    end
  end

  defp other_version(host, theirs, own) do
    {which, update} =
      case older(own, theirs) do
        :theirs -> {", which is older", "Update gpu_sched on #{host}"}
        :own -> {", which is newer", "Update gpu_sched here"}
        :unknown -> {"", "Update the older one"}
      end

    Finding.warning(
      :version,
      "this node has gpu_sched #{own} of its own, and #{host} has #{theirs}#{which}",
      update <> ", or start the shell where there is none: then it takes the host's."
    )
  end

  defp older(own, theirs) do
    with {:ok, own} <- Version.parse(own), {:ok, theirs} <- Version.parse(theirs) do
      if Version.compare(own, theirs) == :lt, do: :own, else: :theirs
    else
      :error -> :unknown
    end
  end

  # All in one call: a module at a time would be a round trip each. Those that this node runs from
  # source, to get here, are replaced as well. All of them, or none.
  defp install(host, vsn, modules) do
    code = call(host, :lists, :map, [&:code.get_object_code/1, modules])
    absent = for {module, :error} <- Enum.zip(modules, code), do: module
    objects = for {module, binary, file} <- code, do: {module, file, binary}

    with [] <- absent,
         {:ok, prepared} <- :code.prepare_loading(objects),
         for({module, _, _} <- objects, do: :code.purge(module)),
         :ok <- :code.finish_loading(prepared) do
      start(host, vsn, length(modules))
    else
      {:error, failed} -> [not_loaded(host, for({module, _why} <- failed, do: module))]
      absent -> [not_loaded(host, absent)]
    end
  end

  # The compiler of a newer OTP writes what an older one does not read.
  defp not_loaded(host, failed) do
    theirs = call(host, :erlang, :system_info, [:otp_release])
    ours = :erlang.system_info(:otp_release)

    Finding.problem(
      :version,
      "#{length(failed)} modules of gpu_sched on #{host} cannot be loaded here, " <>
        "#{inspect(hd(failed))} is one; OTP is #{ours} here and #{theirs} there",
      "Install the same OTP and Elixir as the host's (#{elixir(host)}). Plain calls work all the same: " <>
        ":erpc.call(host, GpuSched, :infer, […])."
    )
  end

  # As an application, so that everything works as on a node that has it: it is a client here, no
  # scheduler is started.
  defp start(host, vsn, count) do
    with {:ok, keys} <- call(host, :application, :get_all_key, [:gpu_sched]),
         :ok <- loaded(:application.load({:application, :gpu_sched, keys})),
         {:ok, _} <- Application.ensure_all_started(:gpu_sched) do
      [Finding.ok(:version, "gpu_sched #{vsn}: #{count} modules loaded from #{host}")]
    else
      error ->
        [
          Finding.warning(
            :version,
            "gpu_sched #{vsn} was loaded from #{host}, but not started: #{inspect(error, limit: 8)}",
            "Requests work; what is kept on this node (the list of hosts) does not."
          )
        ]
    end
  end

  defp loaded(:ok), do: :ok
  defp loaded({:error, {:already_loaded, _}}), do: :ok
  defp loaded(error), do: error

  defp same_code(host, vsn) do
    if GpuSched.module_info(:md5) == call(host, GpuSched, :module_info, [:md5]),
      do: [Finding.ok(:version, "gpu_sched #{vsn} on both sides")],
      else: [
        Finding.note(
          :version,
          "gpu_sched #{vsn} on both sides, but not built from the same source, or by another compiler"
        )
      ]
  end

  defp own_version do
    _ = Application.load(:gpu_sched)
    to_string(Application.spec(:gpu_sched, :vsn) || "of unknown version")
  end

  defp elixir(host), do: "Elixir " <> call(host, System, :version, [])

  defp call(host, module, function, args),
    do: :erpc.call(host, module, function, args, @timeout)
end
