// Reads what the node `endomatch` publishes, joins it by stamp and prints one line for each matched image.
//   ros2 run endomatch_example_cpp correspondence_subscriber [--ros-args -r __ns:=/namespace/of/the/node]
#include <cstdint>
#include <cstdio>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "diagnostic_msgs/msg/diagnostic_array.hpp"
#include "geometry_msgs/msg/pose_stamped.hpp"
#include "rclcpp/rclcpp.hpp"
#include "sensor_msgs/msg/point_cloud2.hpp"
#include "sensor_msgs/point_cloud2_iterator.hpp"

using diagnostic_msgs::msg::DiagnosticArray;
using diagnostic_msgs::msg::DiagnosticStatus;
using geometry_msgs::msg::PoseStamped;
using sensor_msgs::msg::PointCloud2;

// One match: where a point of the reference image (u_ref, v_ref) lies in the current one (u, v), in source pixels.
struct Match
{
  float x, y, z;         // ray of (u, v) at unit depth in the optical frame, undistorted; NaN without camera_info
  float u, v;
  float u_ref, v_ref;
  float similarity;      // cosine similarity of the descriptors
  float epipolar_error;  // px; NaN without an epipolar geometry
  bool inlier;
  std::uint32_t track_id;  // the same number for the same physical point from image to image
  double dt;               // seconds from the reference image to the current one
};

// By field name: the layout may grow. Throws std::runtime_error if a field is missing.
std::vector<Match> read_matches(const PointCloud2 & cloud)
{
  using Floats = sensor_msgs::PointCloud2ConstIterator<float>;
  Floats x(cloud, "x"), y(cloud, "y"), z(cloud, "z"), u(cloud, "u"), v(cloud, "v");
  Floats u_ref(cloud, "u_ref"), v_ref(cloud, "v_ref"), similarity(cloud, "similarity");
  Floats error(cloud, "epipolar_error"), inlier(cloud, "inlier");
  sensor_msgs::PointCloud2ConstIterator<std::uint32_t> track(cloud, "track_id");
  sensor_msgs::PointCloud2ConstIterator<double> dt(cloud, "dt");

  std::vector<Match> matches;
  matches.reserve(static_cast<std::size_t>(cloud.width) * cloud.height);
  for (; x != x.end(); ++x, ++y, ++z, ++u, ++v, ++u_ref, ++v_ref, ++similarity, ++error, ++inlier, ++track, ++dt) {
    matches.push_back({*x, *y, *z, *u, *v, *u_ref, *v_ref, *similarity, *error, *inlier > 0.5f, *track, *dt});
  }
  return matches;
}

std::string value_of(const DiagnosticStatus & status, const std::string & key)
{
  for (const auto & pair : status.values) {
    if (pair.key == key) {return pair.value;}
  }
  return "";
}

// What has come for one image: no pose without camera_info or without sufficient motion, only `error` on failure.
struct Frame
{
  std::int64_t stamp;  // ns; all outputs of one image carry its stamp, exactly
  std::optional<std::vector<Match>> matches;
  std::optional<DiagnosticStatus> error;
  std::optional<PoseStamped> pose;
};

class CorrespondenceSubscriber : public rclcpp::Node
{
public:
  CorrespondenceSubscriber()
  : Node("correspondence_subscriber")
  {
    // Reliable, as the node offers; a subscriber that is too slow loses the oldest of ten unread messages.
    const auto qos = rclcpp::QoS(rclcpp::KeepLast(10)).reliable();
    clouds_ = create_subscription<PointCloud2>(
      "endomatch/correspondences", qos, [this](const PointCloud2::ConstSharedPtr cloud) {
        frame(cloud->header.stamp).matches = read_matches(*cloud);
        report();
      });
    errors_ = create_subscription<DiagnosticArray>(
      "endomatch/epipolar_error", qos, [this](const DiagnosticArray::ConstSharedPtr array) {
        frame(array->header.stamp).error = array->status.at(0);
        report();
      });
    poses_ = create_subscription<PoseStamped>(
      "endomatch/relative_pose", qos, [this](const PoseStamped::ConstSharedPtr pose) {
        frame(pose->header.stamp).pose = *pose;
        report();
      });
  }

private:
  // In order of arrival, not of stamps: those go back when a bag is played in a loop.
  Frame & frame(const rclcpp::Time & time)
  {
    const std::int64_t stamp = time.nanoseconds();
    for (auto & known : frames_) {
      if (known.stamp == stamp) {return known;}
    }
    frames_.push_back({stamp, {}, {}, {}});
    return frames_.back();
  }

  // Between topics the order is not certain, so a few images are open at a time; what is still missing then is not
  // coming any more.
  void report()
  {
    const auto complete = [](const Frame & frame) {return frame.matches && frame.error && frame.pose;};
    while (!frames_.empty() && (complete(frames_.front()) || frames_.size() > 3)) {
      print(frames_.front());
      frames_.pop_front();
    }
  }

  static void print(const Frame & frame)
  {
    std::printf("%.3f s", static_cast<double>(frame.stamp) * 1e-9);
    if (frame.error) {
      std::printf("  level %d: %s", frame.error->level, frame.error->message.c_str());
      std::printf("  coverage %s", value_of(*frame.error, "coverage").c_str());
    }
    if (frame.matches) {
      std::size_t inliers = 0;
      for (const auto & match : *frame.matches) {inliers += match.inlier;}
      std::printf("  %zu points, %zu inliers", frame.matches->size(), inliers);
    }
    if (frame.pose) {
      const auto & direction = frame.pose->pose.position;
      std::printf("  moved towards (%.3f, %.3f, %.3f)", direction.x, direction.y, direction.z);
    }
    std::printf("\n");
    std::fflush(stdout);
  }

  std::deque<Frame> frames_;
  rclcpp::Subscription<PointCloud2>::SharedPtr clouds_;
  rclcpp::Subscription<DiagnosticArray>::SharedPtr errors_;
  rclcpp::Subscription<PoseStamped>::SharedPtr poses_;
};

int main(int argc, char ** argv)
{
  rclcpp::init(argc, argv);
  rclcpp::spin(std::make_shared<CorrespondenceSubscriber>());
  rclcpp::shutdown();
  return 0;
}
