# SPDX-License-Identifier: Apache-2.0
defmodule Mix.Tasks.GpuSched.Build do
  @shortdoc "Builds sched-port into priv/ of gpu_sched"

  @moduledoc """
  Builds the scheduler's programs and puts them into `priv/` of gpu_sched, where a scheduler finds
  them and a release takes them along.

      mix gpu_sched.build

  It needs CMake, a C and C++ compiler, and the libraries that the README of gpu_sched lists; on
  Debian `./dev setup` in its source installs them. In an umbrella it may be run at the top.

  Options:

    * `--source FOLDER` - the source of gpu_sched, with its `CMakeLists.txt`; unless given, the
      folder above this library's, which is right for a dependency from git or a path
    * `--jobs N` - compile so many files at once; unless given, one for each scheduler of the BEAM

  What is installed can be moved: programs and libraries find each other by where they lie.
  """

  use Mix.Task

  @recursive false

  @impl true
  def run(args) do
    {opts, rest, invalid} = OptionParser.parse(args, strict: [source: :string, jobs: :integer])

    if rest != [] or invalid != [] do
      unknown = rest ++ Enum.map(invalid, &elem(&1, 0))
      Mix.raise("mix gpu_sched.build does not take #{Enum.join(unknown, " ")}; see its help")
    end

    # Loads the paths of the dependencies, where gpu_sched is one.
    Mix.Task.run("loadpaths")
    source = source(opts)
    cmake = System.find_executable("cmake") || Mix.raise(no_cmake())
    build = Path.join(Mix.Project.build_path(), "gpu_sched-native")
    jobs = Keyword.get(opts, :jobs, System.schedulers_online())

    # Left by a try that failed, it would keep a compiler or a generator that are not there.
    unless configured?(build), do: File.rm(Path.join(build, "CMakeCache.txt"))

    configure = ["-S", source, "-B", build, "-DCMAKE_BUILD_TYPE=RelWithDebInfo"]
    configure = configure ++ ["-DGPU_SCHED_TESTS=OFF", "-DGPU_SCHED_BENCH=OFF"]
    cmake!(cmake, configure ++ generator(build), "configuring")
    cmake!(cmake, ["--build", build, "--parallel", "#{jobs}"], "compiling")

    for priv <- privs(source) do
      cmake!(cmake, ["--install", build, "--prefix", priv, "--strip"], "installing")
      Mix.shell().info("sched-port is in #{Path.join(priv, "bin")}")
    end
  end

  defp source(opts) do
    source =
      case opts[:source] do
        nil -> Path.dirname(library())
        folder -> Path.expand(folder)
      end

    unless File.exists?(Path.join(source, "CMakeLists.txt")) do
      Mix.raise(
        "#{source} does not hold the source of gpu_sched (there is no CMakeLists.txt); " <>
          "say where it is with --source"
      )
    end

    source
  end

  # The folder of this mix project, whether it is the one being built or a dependency of it.
  defp library do
    if Mix.Project.config()[:app] == :gpu_sched,
      do: File.cwd!(),
      else: dependency!()
  end

  defp dependency! do
    Mix.Project.deps_paths()[:gpu_sched] || umbrella_dependency() ||
      Mix.raise("gpu_sched is not a dependency of this project")
  end

  # At the top of an umbrella, where the dependencies are those of its applications.
  defp umbrella_dependency do
    Enum.find_value(Mix.Project.apps_paths() || %{}, fn {app, path} ->
      Mix.Project.in_project(app, path, fn _module -> Mix.Project.deps_paths()[:gpu_sched] end)
    end)
  end

  # `priv/` of the source, and of what is compiled from it: mix links the one to the other when it
  # compiles, but not where the folder did not exist by then.
  defp privs(source) do
    priv = Path.join([source, "elixir_client", "priv"])
    priv = if File.dir?(Path.dirname(priv)), do: priv, else: Path.join(library(), "priv")
    File.mkdir_p!(priv)
    compiled = Path.join([Mix.Project.build_path(), "lib", "gpu_sched", "priv"])

    cond do
      not File.dir?(Path.dirname(compiled)) -> [priv]
      real(compiled) == real(priv) -> [priv]
      true -> [priv, compiled]
    end
  end

  defp real(path) do
    case File.read_link(path) do
      {:ok, target} -> Path.expand(target, Path.dirname(path))
      {:error, _} -> path
    end
  end

  # Ninja where it is installed, since `./dev setup` installs no make. A folder that is configured
  # already, and a user's own CMAKE_GENERATOR, keep what they have.
  defp generator(build) do
    chosen? = configured?(build) or System.get_env("CMAKE_GENERATOR") != nil
    if not chosen? and System.find_executable("ninja"), do: ["-G", "Ninja"], else: []
  end

  defp configured?(build),
    do: Enum.any?(["build.ninja", "Makefile"], &File.exists?(Path.join(build, &1)))

  defp cmake!(cmake, args, doing) do
    Mix.shell().info("gpu_sched: #{doing}")

    case System.cmd(cmake, args, stderr_to_stdout: true) do
      {_output, 0} ->
        :ok

      {output, status} ->
        Mix.raise("cmake failed (#{status}) while #{doing} gpu_sched:\n\n#{output}")
    end
  end

  defp no_cmake do
    "cmake was not found. Building sched-port needs CMake and a C compiler (on Debian: " <>
      "./dev setup in the source of gpu_sched); without them the library is a client of a " <>
      "scheduler on another node"
  end
end
