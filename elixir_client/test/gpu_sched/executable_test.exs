# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.ExecutableTest do
  # Where sched-port is looked for. The environment is everybody's, so nothing runs beside this.
  use ExUnit.Case, async: false

  alias GpuSched.{Error, Executable}

  @moduletag :tmp_dir

  setup do
    variables = for name <- ["GPU_SCHED_PORT", "PATH"], do: {name, System.get_env(name)}
    configured = Application.get_env(:gpu_sched, :port_path)

    on_exit(fn ->
      for {name, value} <- variables,
          do: if(value, do: System.put_env(name, value), else: System.delete_env(name))

      if configured,
        do: Application.put_env(:gpu_sched, :port_path, configured),
        else: Application.delete_env(:gpu_sched, :port_path)
    end)

    System.delete_env("GPU_SCHED_PORT")
    Application.delete_env(:gpu_sched, :port_path)
    System.put_env("PATH", "/nonexistent")
    :ok
  end

  defp program(dir, name) do
    path = Path.join([dir, name, "sched-port"])
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, "#!/bin/sh\n")
    File.chmod!(path, 0o755)
    path
  end

  # Puts `path` where `mix gpu_sched.build` would; what a build left there comes back.
  defp put_priv(path) do
    priv = Path.join([Application.app_dir(:gpu_sched), "priv"])
    aside = priv <> "-aside"
    if match?({:ok, _}, File.lstat(priv)), do: File.rename!(priv, aside)

    on_exit(fn ->
      File.rm_rf!(priv)
      if match?({:ok, _}, File.lstat(aside)), do: File.rename!(aside, priv)
    end)

    if path do
      File.mkdir_p!(Path.join(priv, "bin"))
      File.ln_s!(path, Path.join([priv, "bin", "sched-port"]))
      Path.join([priv, "bin", "sched-port"])
    end
  end

  test "the option, the configuration, the environment, priv/, PATH: the first one is taken", %{
    tmp_dir: dir
  } do
    on_path = program(dir, "on-path")
    System.put_env("PATH", Path.dirname(on_path))
    put_priv(nil)
    assert Executable.find(nil) == {:ok, on_path}

    in_priv = put_priv(program(dir, "built"))
    assert Executable.find(nil) == {:ok, in_priv}

    in_environment = program(dir, "environment")
    System.put_env("GPU_SCHED_PORT", in_environment)
    assert Executable.find(nil) == {:ok, in_environment}

    configured = program(dir, "configured")
    Application.put_env(:gpu_sched, :port_path, configured)
    assert Executable.find(nil) == {:ok, configured}

    option = program(dir, "option")
    assert Executable.find(option) == {:ok, option}
  end

  test "an empty variable is none", %{tmp_dir: dir} do
    put_priv(nil)
    System.put_env("GPU_SCHED_PORT", "")
    on_path = program(dir, "on-path")
    System.put_env("PATH", Path.dirname(on_path))
    assert Executable.find(nil) == {:ok, on_path}
  end

  test "a place that names what is not there is told, not passed over", %{tmp_dir: dir} do
    System.put_env("PATH", Path.dirname(program(dir, "on-path")))

    for {place, put} <- [
          {"GPU_SCHED_PORT", &System.put_env("GPU_SCHED_PORT", &1)},
          {"config :gpu_sched, :port_path", &Application.put_env(:gpu_sched, :port_path, &1)}
        ] do
      put.(Path.join(dir, "gone"))
      assert {:error, %Error{reason: :port_not_found, message: text}} = Executable.find(nil)
      assert text =~ place and text =~ "no such file"
    end
  end

  test "where there is none, starting a scheduler says what to do" do
    Process.flag(:trap_exit, true)
    put_priv(nil)

    assert {:error, %Error{reason: :port_not_found, message: text}} =
             GpuSched.start_link(models: [])

    for what <- ["mix gpu_sched.build", "port_path:", "GPU_SCHED_PORT", "{name, node}"],
        do: assert(text =~ what)

    # It is still a client.
    assert {:error, %Error{reason: :unavailable}} =
             GpuSched.infer({GpuSched, :"nobody@127.0.0.1"}, "m", %{})
  end
end
