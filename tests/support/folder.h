/* SPDX-License-Identifier: Apache-2.0 */
/* A temporary folder for one test, removed with what is in it. */
#ifndef TESTS_SUPPORT_FOLDER_H
#define TESTS_SUPPORT_FOLDER_H

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

namespace gpu_sched_test
{

class temporary_folder
{
  public:
    temporary_folder()
    {
        std::string name = std::filesystem::temp_directory_path() / "gpu_sched-test-XXXXXX";
        if (mkdtemp(name.data()) == nullptr)
            throw std::runtime_error("mkdtemp " + name);
        /* Without links, as what is opened in it names itself. */
        path_ = std::filesystem::canonical(name).string();
    }
    ~temporary_folder()
    {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    temporary_folder(const temporary_folder &) = delete;
    temporary_folder &operator=(const temporary_folder &) = delete;

    const std::string &path() const
    {
        return path_;
    }

    /* Writes a file, making the folders on the way to it; returns its path. */
    std::string write(const std::string &name, const std::string &content) const
    {
        std::filesystem::path file = std::filesystem::path(path_) / name;
        std::filesystem::create_directories(file.parent_path());
        std::ofstream out(file, std::ios::binary | std::ios::trunc);
        out << content;
        if (!out.flush())
            throw std::runtime_error("cannot write " + file.string());
        return file.string();
    }

  private:
    std::string path_;
};

} // namespace gpu_sched_test

#endif
