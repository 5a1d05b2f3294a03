# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.ReleaseTest do
  # What a user does: an umbrella that has gpu_sched as a git dependency, built and released, moved
  # to another place, its source deleted. It still has to run, with a scheduler of its own.
  use ExUnit.Case, async: false

  @moduletag timeout: 15 * 60_000

  @repository Path.expand("../../..", __DIR__)

  # The one who runs this test has these set for a build of the tree.
  @clean_env [
    {"GPU_SCHED_PORT", nil},
    {"GPU_SCHED_WORKER", nil},
    {"GPU_SCHED_PLUGINS", nil},
    {"MIX_TARGET", nil},
    {"MIX_DEPS_PATH", nil},
    {"MIX_BUILD_PATH", nil},
    {"MIX_ENV", "prod"}
  ]

  # In a container the source often belongs to somebody else, and git serves it only if told to.
  @git_config Path.expand("../support/gitconfig", __DIR__)

  setup do
    folder =
      Path.join(System.tmp_dir!(), "gpu_sched-release-#{System.unique_integer([:positive])}")

    File.mkdir_p!(folder)
    on_exit(fn -> File.rm_rf!(folder) end)
    {:ok, folder: folder}
  end

  if System.find_executable("cmake") == nil or System.find_executable("git") == nil do
    @tag skip: "needs cmake and git"
  end

  if not File.exists?(Path.join(@repository, ".git")) do
    @tag skip: "the source is not a git checkout, which the dependency is fetched from"
  end

  test "an umbrella is released, moved, its source deleted, and runs", %{folder: folder} do
    source = Path.join(folder, "source")
    write_umbrella(source)

    run!("mix", ["deps.get"], source)
    run!("mix", ["compile"], source)
    run!("mix", ["gpu_sched.build"], source)
    run!("mix", ["release", "shop", "--quiet"], source)

    moved = Path.join(folder, "moved to another place")
    File.rename!(Path.join(source, "_build/prod/rel/shop"), moved)
    File.rm_rf!(source)

    output = run!(Path.join(moved, "bin/shop"), ["eval", "Till.ring()"], folder)
    assert output =~ ~s(till: completed on cpu:0)
  end

  if System.find_executable("git") == nil or not File.exists?(Path.join(@repository, ".git")) do
    @tag skip: "needs git, and the source as a git checkout"
  end

  test "without a C toolchain it compiles, as a client, and says what a scheduler takes", %{
    folder: folder
  } do
    source = Path.join(folder, "source")
    write_umbrella(source)
    env = [{"PATH", path_without_toolchain(folder)}]
    {_, status} = System.cmd("/bin/sh", ["-c", "command -v cc || command -v cmake"], env: env)
    assert status != 0

    run!("mix", ["deps.get"], source, env)
    run!("mix", ["compile"], source, env)

    client = """
    {:error, error} = GpuSched.infer({GpuSched, :"nobody@127.0.0.1"}, "m", %{})
    IO.puts("as a client: \#{error.reason}")
    """

    assert run!("mix", ["run", "--no-start", "-e", client], source, env) =~ "as a client: unavail"

    # Its application starts a scheduler.
    assert {output, 1} = command("mix", ["run", "-e", ":ok"], source, env)
    assert output =~ "sched-port was not found: run `mix gpu_sched.build`"
    assert output =~ "{name, node}"

    assert {output, 1} = command("mix", ["gpu_sched.build"], source, env)
    assert output =~ "cmake was not found"
  end

  # A folder with links to all programs that can be run here, but for those that compile C.
  defp path_without_toolchain(folder) do
    bin = Path.join(folder, "bin")
    File.mkdir_p!(bin)
    compilers = ~r/^(cc|c\+\+|c[89]9|cmake|make|gmake|ninja|ld|as|.*(gcc|g\+\+|clang|tcc).*)$/

    for place <- String.split(System.get_env("PATH"), ":", trim: true),
        {:ok, names} <- [File.ls(place)],
        name <- names,
        not Regex.match?(compilers, name) do
      # The first of a name is the one that would be run.
      File.ln_s(Path.join(place, name), Path.join(bin, name))
    end

    bin
  end

  # What it is fetched from has to be on a branch for mix; a checkout in CI often is on none.
  defp clone(folder) do
    bare = Path.join(folder, "gpu_sched.git")
    run!("git", ["clone", "--quiet", "--bare", "file://" <> @repository, bare], folder)
    run!("git", ["-C", bare, "update-ref", "--no-deref", "refs/heads/under-test", "HEAD"], folder)
    run!("git", ["-C", bare, "symbolic-ref", "HEAD", "refs/heads/under-test"], folder)
    bare
  end

  defp write_umbrella(source) do
    repository = clone(Path.dirname(source))

    write(source, "mix.exs", """
    defmodule Shop.MixProject do
      use Mix.Project

      def project do
        [
          apps_path: "apps",
          version: "0.1.0",
          deps: [],
          releases: [shop: [applications: [till: :permanent], include_executables_for: [:unix]]]
        ]
      end
    end
    """)

    write(source, "apps/till/mix.exs", """
    defmodule Till.MixProject do
      use Mix.Project

      def project do
        [
          app: :till,
          version: "0.1.0",
          build_path: "../../_build",
          deps_path: "../../deps",
          lockfile: "../../mix.lock",
          deps: [
            {:gpu_sched, git: #{inspect("file://" <> repository)}, subdir: "elixir_client"}
          ]
        ]
      end

      def application, do: [extra_applications: [:logger], mod: {Till, []}]
    end
    """)

    write(source, "apps/till/lib/till.ex", """
    defmodule Till do
      use Application

      def start(_type, _args) do
        children = [{GpuSched, name: Till.Gpu, models: [[name: "noop", engine: "synthetic"]]}]
        Supervisor.start_link(children, strategy: :one_for_one)
      end

      def ring do
        {:ok, _} = Application.ensure_all_started(:till)
        {:ok, _} = GpuSched.await_ready(Till.Gpu, "noop")
        data = %{"datatype" => "UINT8", "shape" => [3], "data" => "abc"}
        {:ok, result} = GpuSched.infer(Till.Gpu, "noop", %{"data" => data})
        IO.puts("till: completed on " <> result["device"])
        Application.stop(:till)
      end
    end
    """)
  end

  defp write(source, path, content) do
    path = Path.join(source, path)
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, content)
  end

  # Runs a command to its end and answers what it printed; fails with that if it fails.
  defp run!(command, args, folder, env \\ []) do
    {output, status} = command(command, args, folder, env)
    assert status == 0, "#{command} #{Enum.join(args, " ")} exited with #{status}:\n#{output}"
    output
  end

  # With a home of mix that is empty: there is no hex.
  defp command(command, args, folder, env) do
    own = [{"MIX_HOME", Path.join(folder, ".mix")}, {"GIT_CONFIG_GLOBAL", @git_config}]
    env = own ++ env ++ @clean_env
    System.cmd(command, args, cd: folder, env: env, stderr_to_stdout: true)
  end
end
