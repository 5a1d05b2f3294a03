# SPDX-License-Identifier: Apache-2.0
defmodule GpuHost do
  # One scheduler, called GpuSched, with a model for each folder in GPU_SCHED_MODELS, named like it.
  @moduledoc false
  use Application

  require Logger

  @impl true
  def start(_type, _args) do
    models = models(Application.fetch_env!(:gpu_host, :models))
    Logger.info("#{node()} serves #{Enum.map_join(models, ", ", & &1[:name])}")
    Supervisor.start_link([{GpuSched, name: GpuSched, models: models}], strategy: :one_for_one)
  end

  defp models(folder) do
    case File.ls(folder) do
      {:ok, names} ->
        for name <- Enum.sort(names),
            path = Path.join(folder, name),
            File.dir?(path),
            do: [name: name, path: path]

      {:error, posix} ->
        Logger.warning(
          "GPU_SCHED_MODELS: #{folder}: #{:file.format_error(posix)}; no model is loaded"
        )

        []
    end
  end
end
